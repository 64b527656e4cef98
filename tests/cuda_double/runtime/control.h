// What tests ask of the double beside the CUDA runtime's own functions. Found with dlsym: the real
// runtime has none of them.
#pragma once

extern "C" {

// timing: 0 early, 1 late, 2 random. accumulator: 0 exact, 1 an H100's.
void cuda_double_configure(int timing, unsigned seed, int accumulator);
// The first error since the last reset, "" for none; valid until the next call.
const char* cuda_double_report();
// Forgets errors: the context works again.
void cuda_double_reset();

}  // extern "C"

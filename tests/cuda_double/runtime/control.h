// What tests ask of the double beside the CUDA runtime's own functions. Found with dlsym: the real
// runtime has none of them.
#pragma once

extern "C" {

// How tensor cores add from now on, 0 exactly, 1 as an H100's, -1 as the environment says; and all
// that is random begins anew. Timing and seed stay the environment's.
void cuda_double_accumulate(int accumulator);
// The first error since the last reset, "" for none; valid until the next call.
const char* cuda_double_report();
// Forgets errors: the context works again.
void cuda_double_reset();

}  // extern "C"

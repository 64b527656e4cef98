// Which kernels a run on a GPU computes its products by, and whether the libraries that it asks for
// can do its shapes. No GPU is needed to know.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "trainer/loop/run_config.pb.h"
#include "trainer/model/linear.h"

namespace sluice::trainer {

// A line for each distinct linear layer: its products and what computes them, for the rows of a
// microbatch (experts: as if routing were even).
std::string ProductTable(const RunConfig& config, const std::vector<const Linear*>& linears);

// INVALID_ARGUMENT names compute.matmul_kernels or compute.attention_kernels, the layer, and what
// the library cannot do.
absl::Status CheckLibraries(const RunConfig& config, const std::vector<const Linear*>& linears);
// The same of a model that is not built yet; it is built for this, without memory. OK at once where
// no library is asked for.
absl::Status CheckLibraries(const RunConfig& config);

}  // namespace sluice::trainer

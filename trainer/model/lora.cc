#include "trainer/model/lora.h"

#include <cmath>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "kernels/core/status_macros.h"
#include "kernels/ops/low_rank.h"

namespace sluice::trainer {
namespace {

std::string ModuleOf(const NamedPiece& piece) {
  return std::string(absl::StripSuffix(piece.name, ".weight"));
}

// "...mlp.experts.3.up_proj" -> "...mlp.experts.up_proj": the same in every expert.
std::string WithoutExpert(const std::string& module) {
  std::vector<std::string> parts = absl::StrSplit(module, '.');
  std::string name;
  for (size_t i = 0; i < parts.size(); ++i) {
    if (i > 0 && parts[i - 1] == "experts") continue;
    absl::StrAppend(&name, i > 0 ? "." : "", parts[i]);
  }
  return name;
}

// The pieces of a weight by module, in order of their first rows. Experts repeat the same modules.
struct ModulePieces {
  std::string name;  // without the expert's number
  int64_t first_row = 0, num_rows = 0;
  std::vector<const NamedPiece*> pieces;
};

std::vector<ModulePieces> ModulesOf(const Parameter& weight) {
  const bool grouped = weight.shape.rank() == 3;
  const int64_t columns = weight.shape[grouped ? 2 : 1];
  std::vector<ModulePieces> modules;
  for (const NamedPiece& piece : weight.pieces) {
    const std::string name = WithoutExpert(ModuleOf(piece));
    ModulePieces* found = nullptr;
    for (ModulePieces& module : modules) {
      if (module.name == name) found = &module;
    }
    if (found == nullptr) {
      const int64_t row = piece.offset / columns;
      modules.push_back({name, row, 0, {}});
      found = &modules.back();
    }
    // A module's pieces lie one behind the other; of experts the first is counted.
    if (!grouped || found->pieces.empty()) found->num_rows += piece.count / columns;
    found->pieces.push_back(&piece);
  }
  return modules;
}

Parameter MakeA(const Parameter& weight, const std::vector<ModulePieces>& modules, int64_t rank) {
  const bool grouped = weight.shape.rank() == 3;
  const int64_t experts = grouped ? weight.shape[0] : 1, columns = weight.shape[grouped ? 2 : 1];
  const int64_t rows = static_cast<int64_t>(modules.size()) * rank;
  Parameter a;
  a.group = weight.group;
  a.shape = grouped ? Shape{experts, rows, columns} : Shape{rows, columns};
  for (int64_t e = 0; e < experts; ++e) {
    for (size_t m = 0; m < modules.size(); ++m) {
      const NamedPiece& piece = *modules[m].pieces[grouped ? e : 0];
      a.pieces.push_back({ModuleOf(piece) + ".lora_A.weight",
                          {rank, columns},
                          0,
                          (e * rows + static_cast<int64_t>(m) * rank) * columns,
                          rank * columns});
    }
  }
  return a;
}

// Rows in the order of the weight's own.
Parameter MakeB(const Parameter& weight, const ModulePieces& module, int64_t rank) {
  const bool grouped = weight.shape.rank() == 3;
  const int64_t columns = weight.shape[grouped ? 2 : 1];
  Parameter b;
  b.group = weight.group;
  b.shape = grouped ? Shape{weight.shape[0], module.num_rows, rank} : Shape{module.num_rows, rank};
  b.initial_deviation = 0;
  int64_t offset = 0;
  for (const NamedPiece* piece : module.pieces) {
    const int64_t count = piece->count / columns * rank;
    b.pieces.push_back({ModuleOf(*piece) + ".lora_B.weight",
                        {piece->shape[0], rank},
                        piece->begin / columns * rank,
                        offset,
                        count});
    offset += count;
  }
  return b;
}

// Whether `targets` finds the module; an error if it finds it in some experts only.
absl::StatusOr<bool> IsTarget(const NamePattern& targets, const ModulePieces& module) {
  // Projections only: not a gate, not the head.
  if (!absl::StrContains(module.name, "_proj")) return false;
  size_t found = 0;
  for (const NamedPiece* piece : module.pieces) found += targets.IsFoundIn(ModuleOf(*piece));
  if (found != 0 && found != module.pieces.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat("finetune.lora.targets: found ", module.name, " of ", found, " experts of ",
                     module.pieces.size(), " on this rank, wanted all or none"));
  }
  return found != 0;
}

}  // namespace

LowRankAdapter::LowRankAdapter(const LoraConfig& config, std::string name, Parameter& a,
                               TapeLayout& layout)
    : rank_(config.rank()),
      scale_(static_cast<float>(config.alpha() / config.rank())),
      dropout_(static_cast<float>(config.dropout())),
      stream_(HashName(name)),
      a_(a),
      h_(layout.NewSlot()),
      dh_(layout.NewSlot()) {}

absl::StatusOr<std::unique_ptr<LowRankAdapter>> LowRankAdapter::Create(const LoraConfig& config,
                                                                       const NamePattern& targets,
                                                                       const Parameter& weight,
                                                                       ParameterStore& store,
                                                                       TapeLayout& layout) {
  std::vector<ModulePieces> modules;
  for (ModulePieces& module : ModulesOf(weight)) {
    ASSIGN_OR_RETURN(const bool is_target, IsTarget(targets, module));
    if (is_target) modules.push_back(std::move(module));
  }
  if (modules.empty()) return std::unique_ptr<LowRankAdapter>();
  const int64_t columns = weight.shape[weight.shape.rank() - 1];
  Parameter& a = store.Add(MakeA(weight, modules, config.rank()));
  // PEFT's kaiming_uniform(a = sqrt(5)) is uniform in +-1 / sqrt(I), of this deviation.
  a.initial_deviation = config.init() == "normal"
                            ? 1.0 / config.rank()
                            : 1.0 / std::sqrt(3.0 * static_cast<double>(columns));
  std::unique_ptr<LowRankAdapter> adapter(new LowRankAdapter(config, modules[0].name, a, layout));
  for (const ModulePieces& module : modules) {
    Parameter& b = store.Add(MakeB(weight, module, config.rank()));
    adapter->modules_.push_back({module.first_row, module.num_rows, std::make_unique<Linear>(b)});
  }
  return adapter;
}

absl::Status LowRankAdapter::Allocate(kernels::DeviceContext& device, DType dtype) {
  RETURN_IF_ERROR(a_.Allocate(device, dtype));
  for (Module& module : modules_) RETURN_IF_ERROR(module.b->Allocate(device, dtype));
  return absl::OkStatus();
}

void LowRankAdapter::Repack(Stream& stream) {
  a_.Repack(stream);
  for (Module& module : modules_) module.b->Repack(stream);
}

ConstTensorView LowRankAdapter::Dropped(const Context& context, ConstTensorView x,
                                        TensorView out) const {
  if (!drops(context)) return x;
  Temporary ids(context.pool, DType::kI64, {context.row_ids.is_null() ? x.extent(0) : 0});
  if (context.row_ids.is_null()) {
    const MicrobatchInput& batch = context.batch;
    kernels::RowIds(context.stream,
                    {.first = batch.first_sequence * batch.sequence_length, .ids = ids.view()});
  }
  kernels::Dropout(context.stream,
                   {.x = x,
                    .row_ids = context.row_ids.is_null() ? ids.view() : context.row_ids,
                    .y = out,
                    .rate = dropout_,
                    .key = context.scales.dropout_key,
                    .row_stream = stream_});
  return out;
}

void LowRankAdapter::Forward(const Context& context, ConstTensorView x, ConstTensorView offsets,
                             TensorView y) {
  const int64_t rows = x.extent(0), width = static_cast<int64_t>(modules_.size()) * rank_;
  Temporary dropped(context.pool, context.dtype, {drops(context) ? rows : 0, x.extent(1)});
  const ConstTensorView input = Dropped(context, x, dropped.view());
  Tape& tape = context.tape;
  TensorView h = tape.Has(h_) ? tape.Get(h_) : tape.New(h_, context.dtype, {rows, width});
  const bool grouped = !offsets.is_null();
  grouped ? a_.GroupedForward(context, input, offsets, h) : a_.Forward(context, input, h);
  kernels::ScaledAdd(context.stream, {.x = h, .y = h, .scale = scale_});
  for (size_t m = 0; m < modules_.size(); ++m) {
    const Module& module = modules_[m];
    const ConstTensorView mine = h.Columns(static_cast<int64_t>(m) * rank_, rank_);
    Temporary delta(context.pool, context.dtype, {rows, module.num_rows});
    grouped ? module.b->GroupedForward(context, mine, offsets, delta.view())
            : module.b->Forward(context, mine, delta.view());
    kernels::ScaledAdd(
        context.stream,
        {.x = delta.view(), .y = y.Columns(module.first_row, module.num_rows), .accumulate = true});
  }
}

void LowRankAdapter::BackwardInput(const Context& context, ConstTensorView dy,
                                   ConstTensorView offsets, TensorView dx) {
  const int64_t rows = dy.extent(0), width = static_cast<int64_t>(modules_.size()) * rank_;
  TensorView dh = context.tape.New(dh_, context.dtype, {rows, width});
  const bool grouped = !offsets.is_null();
  for (size_t m = 0; m < modules_.size(); ++m) {
    const Module& module = modules_[m];
    const ConstTensorView mine = dy.Columns(module.first_row, module.num_rows);
    const TensorView out = dh.Columns(static_cast<int64_t>(m) * rank_, rank_);
    grouped ? module.b->GroupedBackwardInput(context, mine, offsets, out)
            : module.b->BackwardInput(context, mine, out);
  }
  kernels::ScaledAdd(context.stream, {.x = dh, .y = dh, .scale = scale_});
  Temporary part(context.pool, context.dtype, dx.shape());
  grouped ? a_.GroupedBackwardInput(context, dh, offsets, part.view())
          : a_.BackwardInput(context, dh, part.view());
  // The same mask and factor as the input's.
  const ConstTensorView masked = Dropped(context, part.view(), part.view());
  kernels::ScaledAdd(context.stream, {.x = masked, .y = dx, .accumulate = true});
}

void LowRankAdapter::BackwardWeight(const Context& context, ConstTensorView dy, ConstTensorView x,
                                    ConstTensorView offsets) {
  Tape& tape = context.tape;
  Temporary dropped(context.pool, context.dtype, {drops(context) ? x.extent(0) : 0, x.extent(1)});
  const ConstTensorView input = Dropped(context, x, dropped.view());
  const ConstTensorView h = tape.Get(h_), dh = tape.Get(dh_);
  const bool grouped = !offsets.is_null();
  grouped ? a_.GroupedBackwardWeight(context, dh, input, offsets)
          : a_.BackwardWeight(context, dh, input);
  for (size_t m = 0; m < modules_.size(); ++m) {
    const Module& module = modules_[m];
    const ConstTensorView d_mine = dy.Columns(module.first_row, module.num_rows);
    const ConstTensorView mine = h.Columns(static_cast<int64_t>(m) * rank_, rank_);
    grouped ? module.b->GroupedBackwardWeight(context, d_mine, mine, offsets)
            : module.b->BackwardWeight(context, d_mine, mine);
  }
  tape.Free(h_);
  tape.Free(dh_);
}

}  // namespace sluice::trainer

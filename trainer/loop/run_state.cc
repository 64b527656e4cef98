#include "trainer/loop/run_state.h"

#include <algorithm>
#include <cstring>
#include <iterator>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "checkpoints/commit.h"
#include "checkpoints/huggingface/adapted_weights.h"
#include "checkpoints/huggingface/weight_reader.h"
#include "checkpoints/retention.h"
#include "checkpoints/writer.h"
#include "google/protobuf/text_format.h"
#include "kernels/core/status_macros.h"
#include "trainer/model/finetune.h"

namespace sluice::trainer {
namespace {

using checkpoints::TensorPiece;

constexpr char kDataIdentity[] = "data_identity";  // key of RunMetadata.info

// One of the optimizer's arrays: what it is called and this rank's shard of it.
struct StateArray {
  const char* name;
  TensorView shard;
};

std::vector<StateArray> ArraysOf(parallel::ShardedAdamW& optimizer, bool weights_only) {
  std::vector<StateArray> arrays = {{"master/", optimizer.master()}};
  if (!weights_only) {
    arrays.push_back({"adam_m/", optimizer.first_moment()});
    arrays.push_back({"adam_v/", optimizer.second_moment()});
    if (!optimizer.average().is_null()) {
      arrays.push_back({checkpoints::kAveragePrefix, optimizer.average()});
    }
  }
  return arrays;
}

using PieceVisitor =
    std::function<absl::Status(const TensorPiece& piece, const TensorView& elements)>;

// The same for frozen elements, of which a rank stores and loads its part: values, codes or scales.
absl::Status ForEachFrozenPiece(RankModel& model, FrozenAs as, bool with_copies,
                                const PieceVisitor& visit) {
  absl::Status status;
  for (int g = 0; g < kNumParameterGroups; ++g) {
    const auto group = static_cast<ParameterGroup>(g);
    const TensorView values = model.store().frozen_values(group, as);
    const RankModel::Range mine = model.FrozenShard(group, as);
    model.store().ForEachFrozenRun(group, as, mine.begin, mine.end,
                                   [&](const Parameter& parameter, const NamedPiece& piece,
                                       int64_t named_begin, int64_t flat_begin, int64_t count) {
                                     const bool is_copy = parameter.tied_copy || piece.copy;
                                     if (!status.ok() || (is_copy && !with_copies)) return;
                                     const TensorPiece described{
                                         checkpoints::kWeightPrefix + piece.name, values.dtype(),
                                         piece.shape, named_begin, named_begin + count};
                                     status = visit(described, values.Rows(flat_begin, count));
                                   });
  }
  return status;
}

// Every run of named elements in this rank's shards. Tied copies are visited only with
// `with_copies` (loading).
absl::Status ForEachPiece(RankModel& model, bool weights_only, bool with_copies,
                          const PieceVisitor& visit) {
  for (const FrozenAs as : {FrozenAs::kValues, FrozenAs::kCodes, FrozenAs::kScales}) {
    RETURN_IF_ERROR(ForEachFrozenPiece(model, as, with_copies, visit));
  }
  absl::Status status;
  for (int g = 0; g < kNumParameterGroups; ++g) {
    const auto group = static_cast<ParameterGroup>(g);
    parallel::ShardedAdamW* optimizer = model.optimizer(group);
    if (optimizer == nullptr) continue;
    const int64_t begin = optimizer->shard_begin();
    for (const StateArray& array : ArraysOf(*optimizer, weights_only)) {
      model.store().ForEachRun(
          group, begin, optimizer->shard_end(),
          [&](const Parameter& parameter, const NamedPiece& piece, int64_t named_begin,
              int64_t flat_begin, int64_t count) {
            if (!status.ok() || (parameter.tied_copy && !with_copies)) return;
            const TensorPiece described{array.name + piece.name, array.shard.dtype(), piece.shape,
                                        named_begin, named_begin + count};
            status = visit(described, array.shard.Rows(flat_begin - begin, count));
          });
    }
  }
  return status;
}

bool IsOnHost(const ConstTensorView& view) { return view.device() == kernels::DeviceId{}; }

// Elements as the host reads them: where they are, or a copy in `staging`.
absl::StatusOr<const void*> ForHost(RankModel& model, const ConstTensorView& elements,
                                    std::vector<char>& staging) {
  if (IsOnHost(elements)) return elements.raw_data();
  if (staging.size() < elements.bytes()) staging.resize(elements.bytes());
  model.device().Copy(elements, TensorView(staging.data(), elements.dtype(), elements.shape()),
                      model.stream());
  RETURN_IF_ERROR(model.stream().Synchronize());
  return staging.data();
}

std::string GateName(const MoeLayer& layer, absl::string_view what) {
  return absl::StrCat("gate/", layer.prefix(), what);
}

// The gates' state is equal on all data ranks and replicas; the first of them writes it.
absl::Status WriteGates(RankModel& model, const RunState& state,
                        checkpoints::CheckpointWriter& writer) {
  if (model.data_rank() != 0) return absl::OkStatus();
  const int64_t experts = model.config().model().n_routed_experts();
  std::vector<float> bias(experts);
  for (const auto& stage : model.stages()) {
    if (!model.is_first_replica(*stage)) continue;
    for (const auto& gate : stage->gates()) {
      model.device().Copy(gate.layer->bias(), TensorView(bias.data(), DType::kF32, {experts}),
                          model.stream());
      RETURN_IF_ERROR(model.stream().Synchronize());
      RETURN_IF_ERROR(writer.Add(
          {GateName(*gate.layer, "e_score_correction_bias"), DType::kF32, {experts}, 0, experts},
          bias.data()));
      const std::vector<int64_t> none(experts, 0);
      const int64_t* load =
          state.load.empty() ? none.data() : state.load.data() + gate.index * experts;
      RETURN_IF_ERROR(
          writer.Add({GateName(*gate.layer, "load"), DType::kI64, {experts}, 0, experts}, load));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> WriteShard(RankModel& model, const RunState& state,
                                       const std::string& dir, const std::string& attempt,
                                       checkpoints::FileSystem& files) {
  checkpoints::WriterOptions options;
  options.num_writers = model.world().size();
  ASSIGN_OR_RETURN(auto writer,
                   checkpoints::CheckpointWriter::Begin(files, dir, state.step, attempt,
                                                        model.world().rank(), options));
  std::vector<char> staging;
  RETURN_IF_ERROR(
      ForEachPiece(model, false, false,
                   [&](const TensorPiece& piece, const TensorView& elements) -> absl::Status {
                     ASSIGN_OR_RETURN(const void* data, ForHost(model, elements, staging));
                     return writer->Add(piece, data);
                   }));
  RETURN_IF_ERROR(WriteGates(model, state, *writer));
  ASSIGN_OR_RETURN(const checkpoints::ShardReceipt receipt, writer->Finish());
  return receipt.SerializeAsString();
}

checkpoints::RunMetadata MakeMetadata(RankModel& model, const RunState& state) {
  checkpoints::RunMetadata metadata;
  auto& counters = *metadata.mutable_state();
  counters["updates"] = absl::StrCat(state.updates);
  counters["next_sample"] = absl::StrCat(state.next_sample);
  counters["skipped_in_a_row"] = absl::StrCat(state.skipped_in_a_row);
  const FinetuneConfig& finetune = model.config().finetune();
  if (finetune.mode() == "lora") {
    counters[checkpoints::kLoraScale] =
        absl::StrCat(finetune.lora().alpha() / finetune.lora().rank());
  }
  if (!state.fp8_demoted.empty()) {
    counters["fp8_demoted"] = absl::StrJoin(state.fp8_demoted, " ");
  }
  google::protobuf::TextFormat::PrintToString(model.config(), metadata.mutable_config_textproto());
  metadata.set_tokenizer_hash(state.tokenizer_hash);
  (*metadata.mutable_info())[kDataIdentity] = state.data_identity;
  metadata.set_mesh(model.mesh().ToString());
  return metadata;
}

absl::StatusOr<std::string> CommitReceipts(RankModel& model, const RunState& state,
                                           const SaveOptions& options, const std::string& attempt,
                                           const std::vector<std::string>& serialized,
                                           checkpoints::FileSystem& files) {
  std::vector<checkpoints::ShardReceipt> receipts(serialized.size());
  for (size_t rank = 0; rank < serialized.size(); ++rank) {
    if (!receipts[rank].ParseFromString(serialized[rank])) {
      return absl::InternalError(absl::StrCat("receipt of rank ", rank, " arrived damaged"));
    }
  }
  ASSIGN_OR_RETURN(const std::string path,
                   checkpoints::Commit(files, options.dir, state.step, attempt, receipts,
                                       MakeMetadata(model, state)));
  RETURN_IF_ERROR(checkpoints::ApplyRetention(files, options.dir, path, options.keep, options.log));
  return path;
}

int64_t Counter(const checkpoints::RunMetadata& metadata, const std::string& name) {
  int64_t value = 0;
  const auto found = metadata.state().find(name);
  if (found == metadata.state().end() || !absl::SimpleAtoi(found->second, &value)) return 0;
  return value;
}

// An imported checkpoint has no loads, and a bias only where the model's gate has one: zeros then.
absl::Status ReadOrZero(checkpoints::CheckpointReader& reader, const TensorPiece& piece,
                        bool may_miss, void* out) {
  if (!may_miss || reader.Find(piece.tensor) != nullptr) return reader.Read(piece, out);
  std::memset(out, 0, piece.bytes());
  return absl::OkStatus();
}

// Codes are not made here: they are those of the checkpoint.
absl::Status ReadCodes(checkpoints::CheckpointReader& reader, const TensorPiece& piece, void* out) {
  const checkpoints::TensorRecord* stored = reader.Find(piece.tensor);
  if (stored != nullptr && stored->dtype() == kernels::NameOf(DType::kE4M3)) {
    return reader.Read(piece, out);
  }
  absl::string_view name = piece.tensor;
  absl::ConsumePrefix(&name, checkpoints::kWeightPrefix);
  return absl::FailedPreconditionError(
      absl::StrCat(reader.generation_dir(), ": tensor ", name, ": found ",
                   stored == nullptr ? "masters in f32" : stored->dtype(),
                   ", wanted e4m3 with compute.keep_fp8_weights (an import of a model in FP8)"));
}

// Weights in whatever form they were kept; the rest as it is.
absl::Status ReadPiece(checkpoints::CheckpointReader& reader,
                       checkpoints::AdaptedWeightReader& weights, const LoadOptions& options,
                       const TensorPiece& piece, const TensorView& elements) {
  if (piece.dtype == DType::kE4M3) return ReadCodes(reader, piece, elements.raw_mutable_data());
  absl::string_view name = piece.tensor;
  if (!absl::ConsumePrefix(&name, checkpoints::kMasterPrefix) &&
      !absl::ConsumePrefix(&name, checkpoints::kWeightPrefix)) {
    return reader.Read(piece, elements.raw_mutable_data());
  }
  const std::string weight(name);
  if (options.merge_adapters && IsAdapterName(weight) && !weights.Has(weight)) {
    return absl::OkStatus();
  }
  return weights.Read(weight, piece.global_shape, piece.begin, piece.end, elements.dtype(),
                      elements.raw_mutable_data());
}

// A run that starts from weights averages from there on.
absl::Status ResetAverages(RankModel& model) {
  for (int g = 0; g < kNumParameterGroups; ++g) {
    parallel::ShardedAdamW* optimizer = model.optimizer(static_cast<ParameterGroup>(g));
    if (optimizer != nullptr) RETURN_IF_ERROR(optimizer->ResetAverage(model.stream()));
  }
  return absl::OkStatus();
}

absl::Status ReadGates(RankModel& model, const LoadOptions& options,
                       checkpoints::CheckpointReader& reader, RunState& state) {
  const int64_t experts = model.config().model().n_routed_experts();
  state.load.assign(model.num_gates() * experts, 0);
  std::vector<float> bias(experts);
  for (const auto& stage : model.stages()) {
    for (const auto& gate : stage->gates()) {
      RETURN_IF_ERROR(ReadOrZero(
          reader,
          {GateName(*gate.layer, "e_score_correction_bias"), DType::kF32, {experts}, 0, experts},
          options.weights_only && !gate.layer->has_bias(), bias.data()));
      model.device().Copy(ConstTensorView(bias.data(), DType::kF32, {experts}), gate.layer->bias(),
                          model.stream());
      RETURN_IF_ERROR(model.stream().Synchronize());
      RETURN_IF_ERROR(
          ReadOrZero(reader, {GateName(*gate.layer, "load"), DType::kI64, {experts}, 0, experts},
                     options.weights_only, state.load.data() + gate.index * experts));
    }
  }
  return absl::OkStatus();
}

}  // namespace

std::string DataIdentityOf(const checkpoints::RunMetadata& metadata) {
  const auto found = metadata.info().find(kDataIdentity);
  return found == metadata.info().end() ? "" : found->second;
}

absl::Status AgreeOnStatus(parallel::Communicator& world, const absl::Status& mine) {
  const std::string text =
      mine.ok() ? "" : absl::StrCat(static_cast<int>(mine.code()), ":", mine.message());
  ASSIGN_OR_RETURN(const std::vector<std::string> all, world.GatherBytes(text));
  // What all ranks met is no rank's own trouble and is told without a number.
  const bool is_common = std::count(all.begin(), all.end(), text) == std::ssize(all);
  std::string verdict;
  for (size_t rank = 0; rank < all.size(); ++rank) {
    if (all[rank].empty()) continue;
    const size_t colon = all[rank].find(':');
    verdict = absl::StrCat(all[rank].substr(0, colon), ":",
                           all.size() > 1 && !is_common ? absl::StrCat("rank ", rank, ": ") : "",
                           all[rank].substr(colon + 1));
    break;
  }
  ASSIGN_OR_RETURN(verdict, world.BroadcastBytes(verdict, 0));
  if (verdict.empty()) return absl::OkStatus();
  int code = 0;
  const size_t colon = verdict.find(':');
  CHECK(absl::SimpleAtoi(verdict.substr(0, colon), &code)) << verdict;
  return absl::Status(static_cast<absl::StatusCode>(code), verdict.substr(colon + 1));
}

absl::StatusOr<std::string> SaveState(RankModel& model, const RunState& state,
                                      const SaveOptions& options, checkpoints::FileSystem& files) {
  parallel::Communicator& world = model.world();
  absl::Status prepared;
  if (world.rank() == 0) prepared = checkpoints::RemoveUnfinished(files, options.dir, options.log);
  RETURN_IF_ERROR(AgreeOnStatus(world, prepared));
  ASSIGN_OR_RETURN(const std::string attempt,
                   world.BroadcastBytes(checkpoints::MakeAttemptId(), 0));
  const absl::StatusOr<std::string> receipt = WriteShard(model, state, options.dir, attempt, files);
  RETURN_IF_ERROR(AgreeOnStatus(world, receipt.status()));
  ASSIGN_OR_RETURN(const std::vector<std::string> receipts, world.GatherBytes(*receipt));
  absl::StatusOr<std::string> path = std::string();
  if (world.rank() == 0) path = CommitReceipts(model, state, options, attempt, receipts, files);
  RETURN_IF_ERROR(AgreeOnStatus(world, path.status()));
  return world.BroadcastBytes(*path, 0);
}

absl::StatusOr<RunState> LoadState(RankModel& model, const std::string& generation_dir,
                                   const LoadOptions& options, checkpoints::FileSystem& files) {
  RunState state;
  // What a checkpoint of another run lacks.
  if (options.merge_adapters && model.config().finetune().mode() == "lora") {
    RETURN_IF_ERROR(model.InitializeWeights());
  }
  const auto read = [&]() -> absl::Status {
    ASSIGN_OR_RETURN(auto reader,
                     checkpoints::CheckpointReader::Open(files, generation_dir, options.weights));
    const bool merges = options.merge_adapters && model.config().finetune().mode() != "lora";
    checkpoints::AdaptedWeightReader weights(
        *reader, merges ? checkpoints::AdaptedWeightReader::Adapters::kMerge
                        : checkpoints::AdaptedWeightReader::Adapters::kIgnore);
    std::vector<char> staging;
    const auto read_piece = [&](const TensorPiece& piece,
                                const TensorView& elements) -> absl::Status {
      if (IsOnHost(elements)) return ReadPiece(*reader, weights, options, piece, elements);
      // A tensor that the checkpoint may lack keeps its values.
      RETURN_IF_ERROR(ForHost(model, elements, staging).status());
      const TensorView host(staging.data(), elements.dtype(), elements.shape());
      RETURN_IF_ERROR(ReadPiece(*reader, weights, options, piece, host));
      model.device().Copy(host, elements, model.stream());
      return model.stream().Synchronize();
    };
    RETURN_IF_ERROR(ForEachPiece(model, options.weights_only, true, read_piece));
    if (options.weights_only) RETURN_IF_ERROR(ResetAverages(model));
    RETURN_IF_ERROR(ReadGates(model, options, *reader, state));
    state.step = reader->step();
    state.updates = Counter(reader->metadata(), "updates");
    state.next_sample = Counter(reader->metadata(), "next_sample");
    state.skipped_in_a_row = Counter(reader->metadata(), "skipped_in_a_row");
    if (const auto found = reader->metadata().state().find("fp8_demoted");
        found != reader->metadata().state().end()) {
      state.fp8_demoted = absl::StrSplit(found->second, ' ');
    }
    state.tokenizer_hash = reader->metadata().tokenizer_hash();
    state.data_identity = DataIdentityOf(reader->metadata());
    return absl::OkStatus();
  };
  RETURN_IF_ERROR(AgreeOnStatus(model.world(), read()));
  RETURN_IF_ERROR(model.PublishWeights());
  return state;
}

absl::StatusOr<int64_t> StateBytes(RankModel& model) {
  std::vector<TensorPiece> pieces;
  RETURN_IF_ERROR(
      ForEachPiece(model, false, false, [&](const TensorPiece& piece, const TensorView&) {
        pieces.push_back(piece);
        return absl::OkStatus();
      }));
  int64_t bytes = checkpoints::RequiredBytes(pieces);
  RETURN_IF_ERROR(model.world().AllReduce(TensorView(&bytes, DType::kI64, {1}),
                                          parallel::ReduceOp::kSum, model.stream()));
  return bytes;
}

}  // namespace sluice::trainer

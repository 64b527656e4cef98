// Whole directories through a run folder and back, and an import on every mesh.
#include <functional>
#include <mutex>
#include <nlohmann/json.hpp>
#include <span>

#include "checkpoints/digest.h"
#include "checkpoints/file_system.h"
#include "gmock/gmock.h"
#include "google/protobuf/text_format.h"
#include "gtest/gtest.h"
#include "kernels/core/crc32c.h"
#include "tests/support/thread_ranks.h"
#include "tests/trainer/huggingface_case.h"
#include "trainer/loop/adapter_export.h"
#include "trainer/loop/huggingface.h"
#include "trainer/loop/keep_tokenizer.h"
#include "trainer/loop/load_model.h"
#include "trainer/loop/rank_model.h"
#include "trainer/loop/run_state.h"

namespace sluice::trainer {
namespace {

std::map<std::string, std::string> FilesOf(const std::string& folder) {
  std::map<std::string, std::string> files;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    const std::string name = entry.path().filename().string();
    if (name.rfind("certificate.", 0) != 0) files[name] = data::Slurp(entry.path().string());
  }
  return files;
}

class HuggingFaceRoundTrip : public ::testing::TestWithParam<const char*> {};

TEST_P(HuggingFaceRoundTrip, GivesTheSameFiles) {
  HuggingFaceCase golden(GetParam());
  golden.dir.Write("source/generation_config.json", "{\"eos_token_id\": 1}");
  golden.dir.Write("source/tiktoken.model", std::string("\0\xff not text", 11));
  ASSERT_TRUE(golden.Import().ok());
  ExportRequest request;
  request.from = golden.run();
  request.to = golden.dir.File("out");
  const auto certificate = ExportHuggingFace(request);
  ASSERT_TRUE(certificate.ok()) << certificate.status();
  EXPECT_EQ(certificate->MaxError(), 0);
  const auto source = FilesOf(golden.source()), out = FilesOf(request.to);
  std::vector<std::string> names, found;
  for (const auto& [name, content] : source) names.push_back(name);
  for (const auto& [name, content] : out) found.push_back(name);
  EXPECT_EQ(found, names);
  for (const auto& [name, content] : source) EXPECT_TRUE(out.at(name) == content) << name;
  EXPECT_EQ(ExportHuggingFace(request).status().code(), absl::StatusCode::kAlreadyExists);
}

TEST(HuggingFaceImport, WritesNothingIntoItsSource) {
  HuggingFaceCase golden("mixtral");
  const auto before = FilesOf(golden.source());
  ImportRequest request;
  request.from = golden.source();
  request.to = golden.source() + "/../source/";
  const absl::Status status = ImportHuggingFace(request).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), ::testing::HasSubstr("wanted another to write to"));
  EXPECT_EQ(FilesOf(golden.source()), before);
}

// Moonshot's models have no tokenizer.json; their control tokens are named in the configuration.
TEST(HuggingFaceTokenizer, ATiktokenModelIsTheRunsTokenizer) {
  HuggingFaceCase golden("moonlight");
  const std::string lines = data::ZstdDecompress(
      data::Slurp(testing::SourcePath("tests/golden/tokenizers/") + "tiktoken.jsonl.zst"));
  const auto files = nlohmann::json::parse(lines.substr(0, lines.find('\n')));
  golden.dir.Write("source/tiktoken.model", files["model"].get<std::string>());
  golden.dir.Write("source/tokenizer_config.json", files["config"].dump());
  const auto imported = golden.Import();
  ASSERT_TRUE(imported.ok()) << imported.status();
  const auto source = data::LoadTokenizer(golden.dir.File("source/tiktoken.model"));
  const auto kept = LoadTokenizerOf(imported->generation, "");
  ASSERT_TRUE(source.ok() && kept.ok()) << source.status() << kept.status();
  EXPECT_EQ((*kept)->hash(), (*source)->hash());
  EXPECT_EQ((*kept)->eos_id(), (*source)->eos_id());
  EXPECT_EQ((*kept)->IdOf("<|im_end|>"), (*source)->IdOf("<|im_end|>"));
  std::filesystem::create_directory(golden.dir.File("released"));
  ASSERT_TRUE(ReleaseTokenizer(golden.run(), golden.dir.File("released")).ok());
  const auto released = FilesOf(golden.dir.File("released")), all = FilesOf(golden.source());
  EXPECT_EQ(released.size(), 2u);
  EXPECT_EQ(released.at("tiktoken.model"), all.at("tiktoken.model"));
  EXPECT_EQ(released.at("tokenizer_config.json"), all.at("tokenizer_config.json"));
}

TEST(HuggingFaceTokenizer, AnUnreadableOneIsWarnedOfAndKeptForTheExport) {
  HuggingFaceCase golden("mixtral");
  const std::string odd = "{\"model\": {\"type\": \"Unigram\"}}";
  golden.dir.Write("source/tokenizer.json", odd);
  ImportRequest request;
  request.from = golden.source();
  request.to = golden.run();
  std::vector<std::string> lines;
  request.print = [&](const std::string& line) { lines.push_back(line); };
  const auto imported = ImportHuggingFace(request);
  ASSERT_TRUE(imported.ok()) << imported.status();
  ASSERT_EQ(lines.size(), 1u);
  EXPECT_EQ(lines[0].rfind("warning: no tokenizer that this program reads", 0), 0u) << lines[0];
  EXPECT_NE(lines[0].find("model 'Unigram'"), std::string::npos) << lines[0];
  EXPECT_FALSE(std::filesystem::exists(golden.run() + "/tokenizer.json"));
  EXPECT_EQ(data::Slurp(golden.run() + "/huggingface/tokenizer.json"), odd);
}

// Without a tokenizer_config.json transformers takes the family's tokenizer class, which adds
// tokens of its own.
TEST(HuggingFaceTokenizer, OneOfARunsOwnGetsItsConfiguration) {
  const data::TempDir dir;
  const std::string json = R"({"added_tokens": [{"id": 2, "content": "<|endoftext|>",
      "special": true}], "model": {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": []}})";
  dir.Write("run/tokenizer.json", json);
  std::filesystem::create_directory(dir.File("out"));
  ASSERT_TRUE(ReleaseTokenizer(dir.File("run"), dir.File("out")).ok());
  auto released = FilesOf(dir.File("out"));
  EXPECT_EQ(released.size(), 2u);
  EXPECT_EQ(released["tokenizer.json"], json);
  const auto config = nlohmann::json::parse(released["tokenizer_config.json"]);
  EXPECT_EQ(config["tokenizer_class"], "PreTrainedTokenizerFast");
  EXPECT_EQ(config["eos_token"], "<|endoftext|>");
  EXPECT_TRUE(config.at("bos_token").is_null());
  EXPECT_EQ(config["clean_up_tokenization_spaces"], false);
}

INSTANTIATE_TEST_SUITE_P(Families, HuggingFaceRoundTrip,
                         ::testing::Values("deepseek_v3", "deepseek_v3_mtp", "deepseek_v2_lite",
                                           "qwen3_moe_yarn", "mixtral", "olmoe",
                                           "deepseek_v3_fp8"));

// Masters of all ranks of a mesh, put together again.
std::string DigestOn(const HuggingFaceCase& golden, const RunConfig& stored,
                     const parallel::MeshShape& shape) {
  RunConfig config = stored;
  config.mutable_mesh()->set_pipe(shape.pipe);
  config.mutable_mesh()->set_data(shape.data);
  config.mutable_mesh()->set_expert(shape.expert);
  config.mutable_train()->set_global_batch(shape.data);
  const int world = shape.pipe * shape.data;
  const auto resolved = Resolve(config, world);
  EXPECT_TRUE(resolved.ok()) << resolved.status();
  const auto files = checkpoints::CreatePosixFileSystem();
  const std::string dir =
      golden.dir.File("mesh" + std::to_string(shape.pipe) + std::to_string(shape.data) +
                      std::to_string(shape.expert));
  std::filesystem::create_directories(dir);
  const std::string from =
      std::filesystem::directory_iterator(golden.run() + "/checkpoints")->path().string();
  std::mutex mutex;
  std::string digest;
  testing::RunThreadRanks(
      world, kernels::CpuStreamMode::kInline,
      [&](parallel::Communicator& group, kernels::DeviceContext& device) {
        auto model = RankModel::Create(*resolved, {.world = &group, .device = &device});
        ASSERT_TRUE(model.ok()) << model.status();
        LoadOptions options;
        options.weights_only = true;
        const auto state = LoadState(**model, from, options, *files);
        ASSERT_TRUE(state.ok()) << state.status();
        const auto saved =
            SaveState(**model, *state, {.dir = dir, .log = [](absl::string_view) {}}, *files);
        ASSERT_TRUE(saved.ok()) << saved.status();
        if (group.rank() != 0) return;
        const auto reader = checkpoints::CheckpointReader::Open(*files, *saved);
        ASSERT_TRUE(reader.ok()) << reader.status();
        const auto found = checkpoints::DigestOfCheckpoint(**reader);
        ASSERT_TRUE(found.ok()) << found.status();
        const std::lock_guard<std::mutex> lock(mutex);
        digest = found->total.ToString();
      });
  return digest;
}

TEST(HuggingFaceMesh, AnImportLoadsOnAnyPipeDataAndExpertLayout) {
  for (const char* name : {"deepseek_v3_mtp", "deepseek_v3_fp8"}) {
    HuggingFaceCase golden(name);
    ASSERT_TRUE(golden.Import().ok());
    RunConfig stored;
    ASSERT_TRUE(google::protobuf::TextFormat::ParseFromString(
        data::Slurp(golden.run() + "/config.textproto"), &stored));
    const std::string one = DigestOn(golden, stored, {1, 1, 1});
    EXPECT_EQ(one.size(), 32u);
    for (const parallel::MeshShape& shape :
         {parallel::MeshShape{2, 1, 1}, {1, 4, 1}, {1, 4, 4}, {2, 2, 2}, {1, 3, 1}}) {
      EXPECT_EQ(DigestOn(golden, stored, shape), one)
          << name << " " << shape.pipe << " " << shape.data << " " << shape.expert;
    }
  }
}

// A run that started from an import, saved after `edit` of its masters: (tensor, values).
void SaveTuned(const HuggingFaceCase& golden, const std::function<void(RunConfig&)>& configure,
               const std::function<void(const std::string&, std::span<float>)>& edit) {
  RunConfig config;
  ASSERT_TRUE(google::protobuf::TextFormat::ParseFromString(
      data::Slurp(golden.run() + "/config.textproto"), &config));
  config.mutable_run()->set_init_from(golden.run());
  config.mutable_run()->set_dir(golden.dir.File("tuned"));
  config.mutable_train()->set_global_batch(1);
  if (configure) configure(config);
  const auto resolved = Resolve(config, 1);
  ASSERT_TRUE(resolved.ok()) << resolved.status();
  const auto files = checkpoints::CreatePosixFileSystem();
  testing::RunThreadRanks(
      1, kernels::CpuStreamMode::kInline,
      [&](parallel::Communicator& group, kernels::DeviceContext& device) {
        auto model = RankModel::Create(*resolved, {.world = &group, .device = &device});
        ASSERT_TRUE(model.ok()) << model.status();
        LoadOptions options;
        options.weights_only = options.merge_adapters = true;
        const std::string from =
            std::filesystem::directory_iterator(golden.run() + "/checkpoints")->path().string();
        auto state = LoadState(**model, from, options, *files);
        ASSERT_TRUE(state.ok()) << state.status();
        state->step = 3;
        for (int g = 0; g < kNumParameterGroups; ++g) {
          const auto group_id = static_cast<ParameterGroup>(g);
          if ((*model)->optimizer(group_id) == nullptr) continue;
          const TensorView masters = (*model)->optimizer(group_id)->master();
          (*model)->store().ForEachRun(group_id, 0, masters.num_elements(),
                                       [&](const Parameter&, const NamedPiece& piece, int64_t,
                                           int64_t begin, int64_t count) {
                                         edit(piece.name, {masters.mutable_data<float>() + begin,
                                                           static_cast<size_t>(count)});
                                       });
        }
        std::filesystem::create_directories(golden.dir.File("tuned/checkpoints"));
        const SaveOptions save = {.dir = golden.dir.File("tuned/checkpoints"),
                                  .log = [](absl::string_view) {}};
        ASSERT_TRUE(SaveState(**model, *state, save, *files).ok());
      });
}

// Of every tensor of an export, whether its bytes are those of the source's one file.
std::map<std::string, bool> HasSourceBytes(const HuggingFaceCase& golden,
                                           const checkpoints::Certificate& certificate) {
  const auto files = checkpoints::CreatePosixFileSystem();
  auto source =
      checkpoints::SafetensorsReader::Open(*files, golden.source() + "/model.safetensors");
  EXPECT_TRUE(source.ok()) << source.status();
  std::map<std::string, bool> same;
  for (const checkpoints::CertifiedTensor& tensor : certificate.tensors) {
    const auto* entry = (*source)->Find(tensor.disk);
    EXPECT_NE(entry, nullptr) << tensor.disk;
    if (entry == nullptr) continue;
    std::string bytes(entry->bytes, 'x');
    const auto piece = checkpoints::WholeTensor(entry->name, entry->dtype, entry->shape);
    EXPECT_TRUE((*source)->Read(piece, bytes.data()).ok());
    same[tensor.disk] = tensor.crc32c == Crc32c(bytes.data(), bytes.size());
  }
  return same;
}

TEST(HuggingFaceTrained, ExportsInTheSourcesTypesThroughInitFrom) {
  HuggingFaceCase golden("mixtral");
  ASSERT_TRUE(golden.Import().ok());
  SaveTuned(golden, nullptr, [](const std::string& name, std::span<float> values) {
    if (name != "lm_head.weight") return;
    for (float& value : values) value *= 1.01f;
  });
  ExportRequest request;
  request.from = golden.dir.File("tuned");
  request.to = golden.dir.File("out");
  const auto certificate = ExportHuggingFace(request);
  ASSERT_TRUE(certificate.ok()) << certificate.status();
  const auto source = FilesOf(golden.source()), out = FilesOf(request.to);
  EXPECT_EQ(out.at("config.json"), source.at("config.json"));
  EXPECT_EQ(out.at("model.safetensors").size(), source.at("model.safetensors").size());
  const auto same = HasSourceBytes(golden, *certificate);
  for (const checkpoints::CertifiedTensor& tensor : certificate->tensors) {
    EXPECT_EQ(same.at(tensor.disk), tensor.disk != "lm_head.weight") << tensor.disk;
    if (tensor.disk == "lm_head.weight") {
      EXPECT_GT(tensor.max_error, 0);
    }
  }
  // The export is a directory that can be imported.
  ImportRequest again;
  again.from = request.to;
  again.to = golden.dir.File("again");
  const auto reimported = ImportHuggingFace(again);
  ASSERT_TRUE(reimported.ok()) << reimported.status();
  EXPECT_EQ(reimported->certificate.Hash(), certificate->Hash());
}

TEST(HuggingFaceTrained, AnAdapterCannotHoldATrainedRouter) {
  HuggingFaceCase golden("mixtral");
  ASSERT_TRUE(golden.Import().ok());
  const auto configure = [](RunConfig& config) {
    config.mutable_finetune()->set_mode("lora");
    config.mutable_finetune()->set_train_router(true);
  };
  SaveTuned(golden, configure, [](const std::string&, std::span<float>) {});
  const auto files = checkpoints::CreatePosixFileSystem();
  const std::string generation =
      std::filesystem::directory_iterator(golden.dir.File("tuned/checkpoints"))->path().string();
  data::ExpectStatus(ExportAdapter(*files, generation, "", golden.dir.File("adapter")).status(),
                     absl::StatusCode::kFailedPrecondition,
                     {"gate.weight trained beside the adapters"});
}

// Adapters of the experts alone: these are merged, all else is the source's.
TEST(HuggingFaceTrained, ALoraRunExportsMergedWeightsAndTheSourcesBytesElsewhere) {
  for (const char* precision : {"FP32", "BF16"}) {
    HuggingFaceCase golden("mixtral");
    ASSERT_TRUE(golden.Import().ok());
    const auto configure = [&](RunConfig& config) {
      config.mutable_compute()->set_precision(precision);
      config.mutable_finetune()->set_mode("lora");
      config.mutable_finetune()->mutable_lora()->set_rank(2);
      config.mutable_finetune()->mutable_lora()->set_targets("experts");
    };
    SaveTuned(golden, configure, [](const std::string& name, std::span<float> values) {
      if (name.find("lora_B") == std::string::npos) return;
      for (float& value : values) value = 0.5f;
    });
    ExportRequest request;
    request.from = golden.dir.File("tuned");
    request.to = golden.dir.File("out");
    const auto certificate = ExportHuggingFace(request);
    ASSERT_TRUE(certificate.ok()) << certificate.status();
    const auto same = HasSourceBytes(golden, *certificate);
    int merged = 0;
    for (const checkpoints::CertifiedTensor& tensor : certificate->tensors) {
      const bool is_adapted = tensor.disk.find(".experts.") != std::string::npos;
      EXPECT_EQ(same.at(tensor.disk), !is_adapted) << precision << " " << tensor.disk;
      EXPECT_EQ(tensor.fate.find("adapter merged") != std::string::npos, is_adapted) << tensor.fate;
      merged += is_adapted ? 1 : 0;
    }
    EXPECT_GT(merged, 0);
    const auto files = checkpoints::CreatePosixFileSystem();
    const std::string generation =
        std::filesystem::directory_iterator(request.from + "/checkpoints")->path().string();
    EXPECT_EQ(data::Slurp(golden.run() + "/config.textproto").find("train_router"),
              std::string::npos);
    const auto adapter = ExportAdapter(*files, generation, "base", golden.dir.File("adapter"));
    ASSERT_TRUE(adapter.ok()) << adapter.status();
    EXPECT_EQ(adapter->num_modules, merged);
    EXPECT_TRUE(ReadAll(golden.dir.File("adapter/adapter_model.safetensors"))
                    .contains("base_model.model.model.layers.0.block_sparse_moe.experts.1.w2."
                              "lora_A.weight"));
  }
}

}  // namespace
}  // namespace sluice::trainer

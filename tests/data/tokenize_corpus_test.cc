#include "data/tokenize_corpus.h"

#include <gmock/gmock.h>
#include <zlib.h>

#include "data/json_lines.h"
#include "data/text_files.h"
#include "data_test_util.h"
#include "tests/support/source_path.h"

namespace sluice::data {
namespace {

using Code = absl::StatusCode;
using ::testing::ElementsAre;

void WriteGzip(const std::string& path, const std::string& content) {
  const gzFile file = gzopen(path.c_str(), "wb");
  gzwrite(file, content.data(), static_cast<unsigned>(content.size()));
  gzclose(file);
}

// A folder, and a tokenizer of 300 tokens made from a bundled novel.
struct Corpus {
  TempDir dir;
  std::unique_ptr<Tokenizer> tokenizer;
  Corpus() {
    const std::string novel = testing::SourcePath("data/samples/emma.txt");
    const std::string path = dir.File("tokenizer.json");
    EXPECT_TRUE(TrainVocabulary({.inputs = {novel}}, {.vocab_size = 300}, path).ok());
    auto loaded = LoadTokenizer(path);
    EXPECT_TRUE(loaded.ok()) << loaded.status();
    tokenizer = *std::move(loaded);
  }
  // The documents' texts, as the token file has them.
  std::vector<std::string> Tokenize(CorpusOptions options, CorpusResult* result = nullptr) {
    const auto done = TokenizeCorpus(options, *tokenizer, dir.File("out"));
    EXPECT_TRUE(done.ok()) << done.status();
    if (!done.ok()) return {};
    if (result != nullptr) *result = *done;
    const auto file = TokenFile::Open(dir.File("out"));
    EXPECT_EQ((*file)->info().tokenizer_hash, tokenizer->hash());
    EXPECT_EQ((*file)->num_documents(), done->documents);
    EXPECT_EQ((*file)->num_tokens(), done->tokens);
    EXPECT_EQ((*file)->text_bytes(), done->text_bytes);
    std::vector<std::string> texts;
    for (int64_t d = 0; d < (*file)->num_documents(); ++d) {
      const auto [begin, end] = *(*file)->DocumentRange(d);
      std::vector<int32_t> ids(end - begin);
      EXPECT_TRUE((*file)->Read(begin, ids).ok());
      EXPECT_EQ(ids.back(), tokenizer->eos_id());
      ids.pop_back();
      texts.push_back(*tokenizer->Decode(ids));
    }
    return texts;
  }
  absl::Status Fail(CorpusOptions options) {
    const absl::Status status = TokenizeCorpus(options, *tokenizer, dir.File("out")).status();
    EXPECT_FALSE(std::filesystem::exists(dir.File("out")));
    EXPECT_FALSE(std::filesystem::exists(PartialPath(dir.File("out"))));
    return status;
  }
};

TEST(TokenizeCorpus, ReadsEveryKindOfFileInOrder) {
  Corpus corpus;
  const std::string lines = "{\"text\": \"l1\\n\\u00e9\"}\r\n\n  \n{\"id\": 3, \"text\": \"l2\"}";
  corpus.dir.Write("in/b.jsonl", lines);
  WriteGzip(corpus.dir.File("in/c.jsonl.gz"), lines);
  corpus.dir.Write("in/d.jsonl.zst", ZstdCompress(lines));
  corpus.dir.Write("in/a/z.txt", "z\n");
  WriteGzip(corpus.dir.File("in/e.txt.gz"), "packed");
  corpus.dir.Write("in/f.txt.zst", ZstdCompress("frame 1,") + ZstdCompress(" frame 2"));
  corpus.dir.Write("in/g.txt", "");
  corpus.dir.Write("in/README.md", "not text of the corpus");
  corpus.dir.Write("in/.hidden.txt", "hidden");
  corpus.dir.Write("in/.git/x.txt", "hidden");
  corpus.dir.Write("alone.any", "alone");
  CorpusResult result;
  EXPECT_THAT(
      corpus.Tokenize({.inputs = {corpus.dir.File("alone.any"), corpus.dir.File("in")}}, &result),
      ElementsAre("alone", "z\n", "l1\n\xc3\xa9", "l2", "l1\n\xc3\xa9", "l2", "l1\n\xc3\xa9", "l2",
                  "packed", "frame 1, frame 2"));
  EXPECT_EQ(result.documents, 10);
  EXPECT_EQ(result.empty_documents, 1);
  EXPECT_EQ(result.num_replaced, 0);
}

TEST(TokenizeCorpus, TheFileDoesNotDependOnThreads) {
  Corpus corpus;
  std::string lines;
  for (int i = 0; i < 20000; ++i)
    lines += TextAsJsonLine(absl::StrCat("Document ", i, " says ", i * i % 977, ".")) + "\n";
  const std::string input = corpus.dir.Write("many.jsonl", lines);
  std::string first;
  for (const int threads : {1, 2, 3}) {
    const auto texts = corpus.Tokenize({.inputs = {input}, .num_threads = threads});
    ASSERT_EQ(texts.size(), 20000u);
    EXPECT_EQ(texts[19999], "Document 19999 says 626.");
    const std::string bytes = Slurp(corpus.dir.File("out"));
    if (threads == 1) first = bytes;
    EXPECT_EQ(bytes, first);
  }
}

TEST(TokenizeCorpus, ProgressEndsAtTheTotal) {
  Corpus corpus;
  std::string lines;
  for (int i = 0; i < 300000; ++i) lines += "{\"text\": \"about ten\"}\n";
  const std::string input = corpus.dir.Write("many.jsonl.zst", ZstdCompress(lines));
  std::vector<CorpusProgress> seen;
  corpus.Tokenize(
      {.inputs = {input}, .progress = [&](const CorpusProgress& p) { seen.push_back(p); }});
  ASSERT_GE(seen.size(), 3u);
  for (size_t i = 1; i < seen.size(); ++i) {
    EXPECT_LE(seen[i - 1].bytes_done, seen[i].bytes_done);
    EXPECT_LE(seen[i - 1].tokens, seen[i].tokens);
  }
  EXPECT_EQ(seen.back().bytes_done, seen.back().bytes_total);
  EXPECT_EQ(seen.back().bytes_total, static_cast<int64_t>(std::filesystem::file_size(input)));
  EXPECT_EQ(seen.back().documents, 300000);
}

TEST(TokenizeCorpus, InvalidUtf8IsReplacedAndCountedOrRefused) {
  Corpus corpus;
  const std::string text = corpus.dir.Write("a.txt", "one \xff two \xc3");
  const std::string lines =
      corpus.dir.Write("b.jsonl", "{\"text\": \"good\"}\n{\"text\": \"\xfe\"}\n");
  CorpusResult result;
  EXPECT_THAT(corpus.Tokenize({.inputs = {text, lines}}, &result),
              ElementsAre("one \xef\xbf\xbd two \xef\xbf\xbd", "good", "\xef\xbf\xbd"));
  EXPECT_EQ(result.num_replaced, 3);
  std::filesystem::remove(corpus.dir.File("out"));
  ExpectStatus(corpus.Fail({.inputs = {text}, .strict = true}), Code::kInvalidArgument,
               {text, "not UTF-8"});
  ExpectStatus(corpus.Fail({.inputs = {lines}, .strict = true}), Code::kInvalidArgument,
               {lines, "line 2", "not UTF-8"});
}

TEST(TokenizeCorpus, BadInputIsOneClearSentence) {
  Corpus corpus;
  const TempDir& dir = corpus.dir;
  ExpectStatus(corpus.Fail({}), Code::kInvalidArgument, {"no text file"});
  ExpectStatus(corpus.Fail({.inputs = {dir.File("none")}}), Code::kNotFound, {dir.File("none")});
  std::filesystem::create_directory(dir.File("empty"));
  ExpectStatus(corpus.Fail({.inputs = {dir.File("empty")}}), Code::kInvalidArgument,
               {dir.File("empty"), ".txt or .jsonl"});
  const std::string nothing = dir.Write("nothing.txt", "");
  ExpectStatus(corpus.Fail({.inputs = {nothing}}), Code::kInvalidArgument, {"no text in", nothing});
  ExpectStatus(corpus.Fail({.inputs = {dir.Write("a.xz", "x")}}), Code::kInvalidArgument,
               {dir.File("a.xz"), ".xz"});
  ExpectStatus(corpus.Fail({.inputs = {nothing}, .num_threads = 0}), Code::kInvalidArgument,
               {"0 threads"});
  const std::vector<std::pair<std::string, std::string>> lines = {
      {"{\"text\": \"a\"}\n{\"text\": 3}\n", "\"text\" is not a string"},
      {"\n{\"txt\": \"a\"}", "no field \"text\""},
      {"\n[1]", "not a JSON object"},
      {"\n{\"text\": \"a", "parse error"}};
  for (const auto& [content, message] : lines)
    ExpectStatus(corpus.Fail({.inputs = {dir.Write("bad.jsonl", content)}}), Code::kInvalidArgument,
                 {dir.File("bad.jsonl"), "line 2", message});
  ExpectStatus(
      TokenizeCorpus({.inputs = {dir.Write("a.txt", "a")}}, *corpus.tokenizer, dir.File("no/out"))
          .status(),
      Code::kNotFound, {dir.File("no/out")});
}

TEST(TokenizeCorpus, TokenFilesAreNotReadAsText) {
  Corpus corpus;
  const std::string path = WriteTokens(corpus.dir.File("t.tokens"), {500});
  ExpectStatus(corpus.Fail({.inputs = {path}}), Code::kInvalidArgument, {path, "is a token file"});
  FlipByte(path, 20);
  ExpectStatus(corpus.Fail({.inputs = {path}}), Code::kDataLoss, {path, "damaged"});
  std::filesystem::resize_file(path, 300);
  ExpectStatus(corpus.Fail({.inputs = {path}}), Code::kDataLoss, {path});
}

TEST(TokenizeCorpus, DamagedCompressionIsFound) {
  Corpus corpus;
  const TempDir& dir = corpus.dir;
  std::string text;
  for (int i = 0; i < 1000; ++i) text += absl::StrCat(i * i, " ");
  WriteGzip(dir.File("good.txt.gz"), text);
  const std::string gzip = Slurp(dir.File("good.txt.gz")), zstd = ZstdCompress(text);
  for (const size_t cut : {size_t{20}, gzip.size() / 2, gzip.size() - 1})
    ExpectStatus(corpus.Fail({.inputs = {dir.Write("cut.txt.gz", gzip.substr(0, cut))}}),
                 Code::kDataLoss, {dir.File("cut.txt.gz"), "gzip", "truncated"});
  for (const size_t cut : {size_t{3}, zstd.size() / 2, zstd.size() - 1})
    ExpectStatus(corpus.Fail({.inputs = {dir.Write("cut.txt.zst", zstd.substr(0, cut))}}),
                 Code::kDataLoss, {dir.File("cut.txt.zst"), "zstd", "truncated"});
  ExpectStatus(corpus.Fail({.inputs = {dir.Write("plain.txt.gz", "plain text")}}), Code::kDataLoss,
               {dir.File("plain.txt.gz"), "no gzip header"});
  ExpectStatus(corpus.Fail({.inputs = {dir.Write("plain.txt.zst", "plain text")}}), Code::kDataLoss,
               {dir.File("plain.txt.zst"), "zstd"});
}

TEST(TokenizeCorpus, AnOlderOutputStaysWhenANewOneFails) {
  Corpus corpus;
  const std::string good = corpus.dir.Write("a.txt", "good");
  corpus.Tokenize({.inputs = {good}});
  const std::string before = Slurp(corpus.dir.File("out"));
  EXPECT_FALSE(TokenizeCorpus({.inputs = {good, corpus.dir.Write("b.jsonl", "{")}},
                              *corpus.tokenizer, corpus.dir.File("out"))
                   .ok());
  EXPECT_EQ(Slurp(corpus.dir.File("out")), before);
}

TEST(TrainVocabulary, TheFileDoesNotDependOnThreadsOrCompression) {
  const TempDir dir;
  const std::string text = Slurp(testing::SourcePath("data/samples/emma.txt"));
  const std::string plain = dir.Write("a.txt", text);
  const std::string packed = dir.Write("a.txt.zst", ZstdCompress(text));
  const auto one = TrainVocabulary({.inputs = {plain}}, {.vocab_size = 500}, dir.File("1.json"));
  ASSERT_TRUE(one.ok()) << one.status();
  EXPECT_EQ(one->documents, 1);
  EXPECT_EQ(one->text_bytes, static_cast<int64_t>(text.size()));
  ASSERT_TRUE(TrainVocabulary({.inputs = {packed}, .num_threads = 3}, {.vocab_size = 500},
                              dir.File("2.json"))
                  .ok());
  EXPECT_EQ(Slurp(dir.File("1.json")), Slurp(dir.File("2.json")));
}

TEST(JsonLines, IdsAndTextGoBothWays) {
  EXPECT_EQ(IdsAsJsonLine(std::vector<int32_t>{}), "{\"ids\": []}");
  EXPECT_EQ(IdsAsJsonLine(std::vector<int32_t>{1, 22}), "{\"ids\": [1, 22]}");
  EXPECT_THAT(*ParseJsonLine("{\"ids\": [1, 22], \"x\": null}")->ids, ElementsAre(1, 22));
  for (const std::string& text : {std::string("a \"b\"\n\t\\ \xc3\xa9"), std::string("\0", 1)})
    EXPECT_EQ(ParseJsonLine(TextAsJsonLine(text))->text, text);
  for (const char* bad : {"{\"ids\": 3}", "{\"ids\": [1.5]}", "{\"ids\": [-1]}",
                          "{\"ids\": [4294967296]}", "{\"ids\": [\"1\"]}", "", "{} x"})
    EXPECT_EQ(ParseJsonLine(bad).status().code(), Code::kInvalidArgument) << bad;
}

}  // namespace
}  // namespace sluice::data

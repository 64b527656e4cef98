// PTX as the executor reads it. Names follow the PTX ISA manual, version 9.0.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace sluice::cuda_double {

enum class Type : uint8_t {
  kNone,
  kPred,
  kB8,
  kB16,
  kB32,
  kB64,
  kB128,
  kU8,
  kU16,
  kU32,
  kU64,
  kS8,
  kS16,
  kS32,
  kS64,
  kF16,
  kF16x2,
  kBF16,
  kBF16x2,
  kF32,
  kF64,
  kE4M3,
  kE4M3x2,
  kE5M2,
  kE5M2x2,
};

Type TypeOf(const std::string& name);  // "f32"; kNone for what is no type
int BytesOf(Type type);
bool IsSigned(Type type);

enum class Special : uint8_t {
  kTidX,
  kTidY,
  kTidZ,
  kNtidX,
  kNtidY,
  kNtidZ,
  kCtaidX,
  kCtaidY,
  kCtaidZ,
  kNctaidX,
  kNctaidY,
  kNctaidZ,
  kLaneId,
  kWarpId,
};

// A register is a row of 32 values, one a lane. Immediates and special registers are rows too,
// filled when a warp starts; so every operand is read alike.
struct Operand {
  enum class Kind : uint8_t { kNone, kRow, kSink, kVector, kAddress };
  Kind kind = Kind::kNone;
  int row = -1;               // kRow; the base of a kAddress, -1 for none
  int second = -1;            // p of d|p
  bool is_negated = false;    // !p
  bool is_parameter = false;  // kAddress: `offset` counts from the start of the parameters
  int64_t offset = 0;         // kAddress
  std::vector<int> rows;      // kVector; -1 for _. kAddress: the coordinates of a tensor's box
};

struct SourceLine {
  int file = 0, line = 0;  // 0: not known
};

struct Context;
using Handler = void (*)(const Context&);

// What an instruction does to the order of execution, beside what its handler does.
enum class Flow : uint8_t { kNext, kBranch, kExit, kBarrier };

enum class Space : uint8_t { kGeneric, kGlobal, kShared, kLocal, kParameter };

struct Instruction {
  std::string opcode;                  // "ld"
  std::vector<std::string> modifiers;  // {"global", "f32"}
  std::vector<Operand> operands;
  int guard = -1;  // row of @p
  bool guard_is_negated = false;
  std::string label;  // of bra
  int target = -1;    // index of the instruction it names
  int scope = 0;      // of the label
  int ptx_line = 0;
  SourceLine source;
  // Set by Decode.
  Handler run = nullptr;
  Flow flow = Flow::kNext;
  Type type = Type::kNone, from_type = Type::kNone;
  Space space = Space::kGeneric;
  int num_values = 1;  // of ld.v4: 4
  int detail = 0;      // what else the handler needs, see there

  std::string Text() const;  // "ld.global.f32"
};

struct Parameter {
  std::string name;
  size_t offset = 0, bytes = 0;
};

struct Kernel {
  std::string name;
  std::string title;  // what the source calls it
  std::vector<Parameter> parameters;
  size_t parameter_bytes = 0;
  std::vector<Instruction> code;
  int num_rows = 0;
  std::vector<std::pair<int, uint64_t>> constants;  // row, value
  std::vector<std::pair<int, Special>> specials;
  size_t shared_bytes = 0;    // declared in the kernel
  size_t dynamic_offset = 0;  // where dynamic shared memory begins
  size_t local_bytes = 0;     // a thread
  unsigned max_threads = 0;   // .maxntid; 0: not given
  size_t shared_granule = 4;  // the narrowest access to shared memory, bytes
};

struct Module {
  std::map<std::string, std::unique_ptr<Kernel>> kernels;
  std::map<int, std::string> files;  // of .file
};

// Generic addresses of shared and local memory and of parameters carry these; global ones are the
// host's own.
inline constexpr uint64_t kSharedWindow = 0x5A00000000000000ull;
inline constexpr uint64_t kLocalWindow = 0x5B00000000000000ull;
inline constexpr uint64_t kParameterWindow = 0x5C00000000000000ull;
inline constexpr uint64_t kWindowMask = 0xFF00000000000000ull;

}  // namespace sluice::cuda_double

// From an instruction's text to the function that runs it.
#pragma once

#include <string>
#include <vector>

#include "tests/cuda_double/ptx/ir.h"

namespace sluice::cuda_double {

// An instruction's modifiers, each taken once by who understands it. What is left over is unknown,
// and then the instruction is refused.
class Modifiers {
 public:
  explicit Modifiers(const Instruction& instruction) : left_(instruction.modifiers) {}
  bool Take(const std::string& modifier);
  // The first modifier that names a type; kNone if there is none.
  Type TakeType();
  // Takes and returns the first of `choices` that is there; -1 if none is.
  int TakeOneOf(const std::vector<std::string>& choices);
  bool IsEmpty() const { return left_.empty(); }

 private:
  std::vector<std::string> left_;
};

// Sets what the executor needs. "" or the first instruction or form that is not known.
std::string Decode(Kernel& kernel);

// The names of all that Decode can know.
std::vector<std::string> KnownOpcodes();

// Each sets `run` if it knows this form of the opcode, and takes the modifiers that it heeds.
void DecodeInteger(Instruction& instruction, Modifiers& modifiers);
void DecodeFloat(Instruction& instruction, Modifiers& modifiers);
void DecodeLogic(Instruction& instruction, Modifiers& modifiers);
void DecodeCompare(Instruction& instruction, Modifiers& modifiers);
void DecodeMove(Instruction& instruction, Modifiers& modifiers);
void DecodeConvert(Instruction& instruction, Modifiers& modifiers);
void DecodeMemory(Instruction& instruction, Modifiers& modifiers);
void DecodeWarp(Instruction& instruction, Modifiers& modifiers);
void DecodeMatrix(Instruction& instruction, Modifiers& modifiers);
void DecodeFlow(Instruction& instruction, Modifiers& modifiers);
void DecodeAsync(Instruction& instruction, Modifiers& modifiers);
void DecodeWarpgroup(Instruction& instruction, Modifiers& modifiers);

}  // namespace sluice::cuda_double

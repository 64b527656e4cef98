#include "tests/cuda_double/ptx/parser.h"

#include <cxxabi.h>

#include <algorithm>
#include <cctype>
#include <cstdlib>

#include "tests/cuda_double/ptx/lexer.h"

namespace sluice::cuda_double {
namespace {

size_t RoundUp(size_t value, size_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

bool IsNumber(const std::string& token) {
  return !token.empty() && std::isdigit(static_cast<unsigned char>(token[0]));
}

// Integers in any base, and floats by their bits: 0f3F800000, 0d3FF0000000000000.
uint64_t NumberOf(const std::string& token) {
  if (token.size() > 2 && token[0] == '0' && std::string("fFdD").find(token[1]) != token.npos) {
    return std::strtoull(token.c_str() + 2, nullptr, 16);
  }
  return std::strtoull(token.c_str(), nullptr, 0);
}

// "sluice::...::rms_norm_kernel<float>" for a mangled name; the name itself for any other.
std::string TitleOf(const std::string& name) {
  int status = 0;
  char* demangled = abi::__cxa_demangle(name.c_str(), nullptr, nullptr, &status);
  if (status != 0) return name;
  std::string title = demangled;
  std::free(demangled);
  const std::string anonymous = "(anonymous namespace)::";
  for (size_t at = title.find(anonymous); at != title.npos; at = title.find(anonymous)) {
    title.erase(at, anonymous.size());
  }
  title.resize(std::min(title.size(), title.rfind('(')));
  const std::string returns = "void ";
  return title.compare(0, returns.size(), returns) == 0 ? title.substr(returns.size()) : title;
}

const std::map<std::string, Special>& Specials() {
  static const std::map<std::string, Special> kSpecials = {
      {"%tid.x", Special::kTidX},       {"%tid.y", Special::kTidY},
      {"%tid.z", Special::kTidZ},       {"%ntid.x", Special::kNtidX},
      {"%ntid.y", Special::kNtidY},     {"%ntid.z", Special::kNtidZ},
      {"%ctaid.x", Special::kCtaidX},   {"%ctaid.y", Special::kCtaidY},
      {"%ctaid.z", Special::kCtaidZ},   {"%nctaid.x", Special::kNctaidX},
      {"%nctaid.y", Special::kNctaidY}, {"%nctaid.z", Special::kNctaidZ},
      {"%laneid", Special::kLaneId},    {"%warpid", Special::kWarpId}};
  return kSpecials;
}

class Parser {
 public:
  Parser(const std::string& text, Module& module) : lexer_(text), module_(module) {}

  std::string Run() {
    while (error_.empty()) {
      const std::string token = lexer_.Next();
      if (token.empty()) break;
      TopLevel(token);
    }
    return error_;
  }

 private:
  // A { } block: registers and labels are known from it inwards.
  struct Scope {
    int parent = -1;
    std::map<std::string, int> registers, labels;
  };

  void Fail(const std::string& what) {
    if (error_.empty()) error_ = "PTX line " + std::to_string(lexer_.line()) + ": " + what;
  }
  void Expect(const char* wanted) {
    const std::string found = lexer_.Next();
    if (found != wanted) Fail("found '" + found + "', wanted '" + wanted + "'");
  }

  void TopLevel(const std::string& token) {
    if (token == ".version" || token == ".target" || token == ".address_size") {
      lexer_.SkipLine();
    } else if (token == ".file") {
      const int number = static_cast<int>(NumberOf(lexer_.Next()));
      const std::string name = lexer_.Next();
      module_.files[number] = name.size() > 2 ? name.substr(1, name.size() - 2) : name;
      lexer_.SkipLine();
    } else if (token == ".section") {
      lexer_.SkipPast('}');
    } else if (token == ".visible" || token == ".weak") {
    } else if (token == ".extern") {
      if (lexer_.Next() != ".shared") return Fail(".extern of something that is not shared memory");
      SharedDeclaration(true);
    } else if (token == ".shared") {
      const Declared declared = Declaration();
      Expect(";");
      module_shared_[declared.name] = declared;
    } else if (token == ".global" || token == ".const") {
      lexer_.SkipPast(';');  // an instruction that names it fails: no such operand
    } else if (token == ".entry") {
      Entry();
    } else {
      Fail("unknown directive '" + token + "'");
    }
  }

  // [.align N] .type name[size][size];
  struct Declared {
    std::string name;
    size_t align = 1, bytes = 0;
  };
  Declared Declaration() {
    Declared declared;
    size_t element = 1;
    std::string token = lexer_.Next();
    for (; !token.empty() && token[0] == '.' && error_.empty(); token = lexer_.Next()) {
      if (token == ".align") {
        declared.align = NumberOf(lexer_.Next());
      } else if (token == ".ptr" || token == ".global") {  // attributes of pointer parameters
      } else {
        const Type type = TypeOf(token.substr(1));
        if (type == Type::kNone) Fail("unknown type '" + token + "'");
        element = static_cast<size_t>(BytesOf(type));
      }
    }
    declared.name = token;
    declared.align = std::max(declared.align, element);
    size_t count = 1;
    while (lexer_.TakeIf("[")) {
      count *= lexer_.Peek() == "]" ? 0 : NumberOf(lexer_.Next());
      Expect("]");
    }
    declared.bytes = count * element;
    return declared;
  }

  void SharedDeclaration(bool is_dynamic) {
    const Declared declared = Declaration();
    Expect(";");
    if (is_dynamic) {
      dynamic_symbols_.push_back(declared.name);
      return;
    }
    PlaceShared(declared);
  }

  void PlaceShared(const Declared& declared) {
    kernel_->shared_bytes = RoundUp(kernel_->shared_bytes, declared.align);
    symbols_[declared.name] = kernel_->shared_bytes;
    kernel_->shared_bytes += declared.bytes;
  }

  void LocalDeclaration() {
    const Declared declared = Declaration();
    Expect(";");
    kernel_->local_bytes = RoundUp(kernel_->local_bytes, declared.align);
    symbols_[declared.name] = kernel_->local_bytes;
    kernel_->local_bytes += declared.bytes;
  }

  void Entry() {
    auto kernel = std::make_unique<Kernel>();
    kernel_ = kernel.get();
    symbols_.clear();
    constant_rows_.clear();
    special_rows_.clear();
    dynamic_rows_.clear();
    kernel_->name = lexer_.Next();
    kernel_->title = TitleOf(kernel_->name);
    if (lexer_.TakeIf("(")) {
      while (error_.empty() && lexer_.Peek() != ")") {
        Expect(".param");
        const Declared declared = Declaration();
        const size_t offset = RoundUp(kernel_->parameter_bytes, declared.align);
        kernel_->parameters.push_back({declared.name, offset, declared.bytes});
        kernel_->parameter_bytes = offset + declared.bytes;
        lexer_.TakeIf(",");
      }
      Expect(")");
    }
    while (error_.empty() && lexer_.Peek() != "{") KernelDirective(lexer_.Next());
    Body();
    FinishShared();
    module_.kernels[kernel_->name] = std::move(kernel);
  }

  void KernelDirective(const std::string& token) {
    if (token == ".maxntid") {
      kernel_->max_threads = static_cast<unsigned>(NumberOf(lexer_.Next()));
      while (lexer_.TakeIf(",")) {
        kernel_->max_threads *= static_cast<unsigned>(NumberOf(lexer_.Next()));
      }
    } else if (token == ".minnctapersm" || token == ".maxnreg") {
      lexer_.Next();  // for the compiler
    } else {
      Fail("unknown directive '" + token + "' of a kernel");
    }
  }

  // Dynamic shared memory follows what is declared, where the hardware may put it at the least
  // convenient place that its alignment allows; 1024 suits every use.
  void FinishShared() {
    kernel_->dynamic_offset = RoundUp(kernel_->shared_bytes, 1024);
    for (int row : dynamic_rows_) kernel_->constants.push_back({row, kernel_->dynamic_offset});
  }

  void Body() {
    Expect("{");
    scopes_.assign(1, {});
    scope_ = 0;
    source_ = {};
    int depth = 1;
    while (depth > 0 && error_.empty()) {
      const std::string token = lexer_.Next();
      if (token == "{") {
        ++depth;
        scopes_.push_back({.parent = scope_, .registers = {}, .labels = {}});
        scope_ = static_cast<int>(scopes_.size()) - 1;
      } else if (token == "}") {
        --depth;
        scope_ = scopes_[static_cast<size_t>(scope_)].parent;
      } else if (token.empty()) {
        Fail("the text ends inside of a kernel");
      } else if (token[0] == '.') {
        BodyDirective(token);
      } else {
        Statement(token);
      }
    }
    for (Instruction& instruction : kernel_->code) Resolve(instruction);
    Instruction end;  // falling off the end returns
    end.opcode = "ret";
    end.ptx_line = lexer_.line();
    kernel_->code.push_back(end);
  }

  void BodyDirective(const std::string& token) {
    if (token == ".reg") {
      RegisterDeclaration();
    } else if (token == ".shared") {
      SharedDeclaration(false);
    } else if (token == ".local") {
      LocalDeclaration();
    } else if (token == ".loc") {
      source_.file = static_cast<int>(NumberOf(lexer_.Next()));
      source_.line = static_cast<int>(NumberOf(lexer_.Next()));
      lexer_.SkipLine();
    } else if (token == ".pragma") {
      lexer_.SkipPast(';');
    } else {
      Fail("unknown directive '" + token + "'");
    }
  }

  // .reg .b32 %r<10>, %x;
  void RegisterDeclaration() {
    const std::string type = lexer_.Next();
    if (type.empty() || TypeOf(type.substr(1)) == Type::kNone) Fail("unknown type '" + type + "'");
    auto& registers = scopes_[static_cast<size_t>(scope_)].registers;
    do {
      const std::string name = lexer_.Next();
      if (lexer_.TakeIf("<")) {
        const int count = static_cast<int>(NumberOf(lexer_.Next()));
        Expect(">");
        for (int i = 0; i < count; ++i) registers[name + std::to_string(i)] = kernel_->num_rows++;
      } else {
        registers[name] = kernel_->num_rows++;
      }
    } while (error_.empty() && lexer_.TakeIf(","));
    Expect(";");
  }

  void Statement(std::string token) {
    Instruction instruction;
    instruction.ptx_line = lexer_.line();
    instruction.source = source_;
    instruction.scope = scope_;
    if (token == "@") {
      instruction.guard_is_negated = lexer_.TakeIf("!");
      instruction.guard = RegisterOf(lexer_.Next());
      if (instruction.guard < 0) return Fail("the guard is no register");
      token = lexer_.Next();
    }
    if (lexer_.TakeIf(":")) {
      scopes_[static_cast<size_t>(scope_)].labels[token] = static_cast<int>(kernel_->code.size());
      return;
    }
    size_t begin = 0;
    for (size_t dot = token.find('.'); begin != std::string::npos; dot = token.find('.', begin)) {
      const std::string part = token.substr(begin, dot == token.npos ? dot : dot - begin);
      begin == 0 ? instruction.opcode = part : instruction.modifiers.emplace_back(part);
      begin = dot == token.npos ? dot : dot + 1;
    }
    if (instruction.opcode == "bra") {
      instruction.label = lexer_.Next();
      Expect(";");
    } else {
      while (error_.empty() && lexer_.Peek() != ";") {
        instruction.operands.push_back(ParseOperand());
        lexer_.TakeIf(",");
      }
      Expect(";");
    }
    kernel_->code.push_back(std::move(instruction));
  }

  Operand ParseOperand() {
    Operand operand;
    const std::string token = lexer_.Next();
    if (token == "!") {
      operand = ParseOperand();
      operand.is_negated = true;
    } else if (token == "-") {
      operand.kind = Operand::Kind::kRow;
      operand.row = ConstantRow(0 - NumberOf(lexer_.Next()));
    } else if (token == "{") {
      operand.kind = Operand::Kind::kVector;
      while (error_.empty() && !lexer_.TakeIf("}")) {
        operand.rows.push_back(ParseOperand().row);
        lexer_.TakeIf(",");
      }
    } else if (token == "[") {
      operand = ParseAddress();
    } else if (token == "_") {
      operand.kind = Operand::Kind::kSink;
      if (lexer_.TakeIf("|")) operand.second = RegisterOf(lexer_.Next());
    } else {
      operand.kind = Operand::Kind::kRow;
      operand.row = RowOf(token);
      if (operand.row < 0) Fail("unknown operand '" + token + "'");
      if (lexer_.TakeIf("|")) operand.second = RegisterOf(lexer_.Next());
    }
    return operand;
  }

  // [base], [base+offset], [parameter+offset], [base, {x, y}]
  Operand ParseAddress() {
    Operand operand;
    operand.kind = Operand::Kind::kAddress;
    const std::string base = lexer_.Next();
    const auto parameter = ParameterOf(base);
    if (parameter != kernel_->parameters.end()) {
      operand.is_parameter = true;
      operand.offset = static_cast<int64_t>(parameter->offset);
    } else {
      operand.row = RowOf(base);
      if (operand.row < 0) Fail("unknown address '" + base + "'");
    }
    bool is_negative = lexer_.TakeIf("-");
    if (is_negative || lexer_.TakeIf("+")) {
      is_negative = lexer_.TakeIf("-") || is_negative;
      const auto distance = static_cast<int64_t>(NumberOf(lexer_.Next()));
      operand.offset += is_negative ? -distance : distance;
    }
    // [map, {x, y}]: a box of a tensor
    if (lexer_.TakeIf(",")) operand.rows = ParseOperand().rows;
    Expect("]");
    return operand;
  }

  std::vector<Parameter>::const_iterator ParameterOf(const std::string& name) const {
    return std::find_if(kernel_->parameters.begin(), kernel_->parameters.end(),
                        [&](const Parameter& p) { return p.name == name; });
  }

  int RegisterOf(const std::string& name) const {
    for (int scope = scope_; scope >= 0; scope = scopes_[static_cast<size_t>(scope)].parent) {
      const auto& registers = scopes_[static_cast<size_t>(scope)].registers;
      const auto found = registers.find(name);
      if (found != registers.end()) return found->second;
    }
    return -1;
  }

  int ConstantRow(uint64_t value) {
    const auto [found, is_new] = constant_rows_.try_emplace(value, kernel_->num_rows);
    if (is_new) {
      kernel_->constants.push_back({kernel_->num_rows++, value});
    }
    return found->second;
  }

  // Registers, numbers, special registers, addresses of parameters and variables; -1 for others.
  int RowOf(const std::string& name) {
    const int row = RegisterOf(name);
    if (row >= 0) return row;
    if (IsNumber(name)) return ConstantRow(NumberOf(name));
    const auto special = Specials().find(name);
    if (special != Specials().end()) {
      const auto [found, is_new] = special_rows_.try_emplace(special->second, kernel_->num_rows);
      if (is_new) {
        kernel_->specials.push_back({kernel_->num_rows++, special->second});
      }
      return found->second;
    }
    const auto parameter = ParameterOf(name);
    if (parameter != kernel_->parameters.end()) return ConstantRow(parameter->offset);
    // Shared variables of device functions belong to each kernel that names them.
    const auto shared = module_shared_.find(name);
    if (shared != module_shared_.end() && symbols_.count(name) == 0) PlaceShared(shared->second);
    const auto symbol = symbols_.find(name);
    if (symbol != symbols_.end()) return ConstantRow(symbol->second);
    if (std::find(dynamic_symbols_.begin(), dynamic_symbols_.end(), name) !=
        dynamic_symbols_.end()) {
      dynamic_rows_.push_back(kernel_->num_rows);
      return kernel_->num_rows++;
    }
    return -1;
  }

  void Resolve(Instruction& instruction) {
    if (instruction.opcode != "bra") return;
    for (int scope = instruction.scope; scope >= 0;
         scope = scopes_[static_cast<size_t>(scope)].parent) {
      const auto& labels = scopes_[static_cast<size_t>(scope)].labels;
      const auto found = labels.find(instruction.label);
      if (found == labels.end()) continue;
      instruction.target = found->second;
      return;
    }
    Fail("no label '" + instruction.label + "'");
  }

  Lexer lexer_;
  Module& module_;
  std::string error_;
  std::vector<std::string> dynamic_symbols_;
  std::map<std::string, Declared> module_shared_;
  // Of the kernel at hand:
  Kernel* kernel_ = nullptr;
  std::map<std::string, size_t> symbols_;  // shared and local variables: their offsets
  std::map<uint64_t, int> constant_rows_;
  std::map<Special, int> special_rows_;
  std::vector<int> dynamic_rows_;
  std::vector<Scope> scopes_;
  int scope_ = 0;
  SourceLine source_;
};

}  // namespace

std::string ParseModule(const std::string& text, Module& module) {
  return Parser(text, module).Run();
}

}  // namespace sluice::cuda_double

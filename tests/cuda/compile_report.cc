#include "tests/cuda/compile_report.h"

#include <cxxabi.h>

#include <cstdio>
#include <cstdlib>
#include <sstream>

namespace sluice::testing {
namespace {

// "name<arguments>" of a mangled kernel, without namespaces of the name itself.
std::string ShortName(const std::string& mangled) {
  int status = 0;
  char* text = abi::__cxa_demangle(mangled.c_str(), nullptr, nullptr, &status);
  if (status != 0) return mangled;
  std::string name = text;
  std::free(text);
  const std::string anonymous = "(anonymous namespace)::";
  for (size_t at = name.find(anonymous); at != name.npos; at = name.find(anonymous)) {
    name.erase(at, anonymous.size());
  }
  // Values of enumerations look like casts, "(Kind)1"; the parameter list is the last bracket.
  name.resize(name.rfind('('));
  const size_t last = name.rfind("::", name.find('<'));
  return name.substr(last == name.npos ? 0 : last + 2);
}

// The number in front of `unit`, 0 if it is not there.
int NumberBefore(const std::string& line, const std::string& unit) {
  size_t at = line.find(unit);
  if (at == line.npos || at == 0) return 0;
  size_t begin = at;
  while (begin > 0 && std::isdigit(static_cast<unsigned char>(line[begin - 1]))) --begin;
  return begin == at ? 0 : std::atoi(line.c_str() + begin);
}

}  // namespace

CompileReport ParseCompileReport(const std::string& text) {
  CompileReport report;
  std::string name;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    const std::string compiling = "Compiling entry function '";
    const size_t at = line.find(compiling);
    if (at != line.npos) {
      const size_t begin = at + compiling.size();
      name = ShortName(line.substr(begin, line.find('\'', begin) - begin));
      report.kernels[name] = {};
    } else if (line.find("bytes stack frame") != line.npos) {
      KernelReport& kernel = report.kernels[name];
      kernel.stack_bytes = NumberBefore(line, " bytes stack frame");
      kernel.spill_bytes =
          NumberBefore(line, " bytes spill stores") + NumberBefore(line, " bytes spill loads");
      if (kernel.stack_bytes != 0) report.complaints.push_back(name + ": stack frame:" + line);
      if (kernel.spill_bytes != 0) report.complaints.push_back(name + ": spills:" + line);
    } else if (line.find("Used ") != line.npos) {
      report.kernels[name].registers = NumberBefore(line, " registers");
      report.kernels[name].shared_bytes = NumberBefore(line, " bytes smem");
    }
    if (line.find("C75") != line.npos || line.find("Potential Performance Loss") != line.npos ||
        line.find("warning") != line.npos) {
      report.complaints.push_back(line);
    }
  }
  return report;
}

Budgets ParseBudgets(const std::string& text) {
  Budgets budgets;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    if (line.empty() || line[0] == '#') continue;
    std::istringstream fields(line);
    KernelReport budget;
    std::string name;
    fields >> budget.registers >> budget.shared_bytes;
    std::getline(fields >> std::ws, name);
    budgets[name] = budget;
  }
  return budgets;
}

std::vector<std::string> OverBudget(const CompileReport& report, const Budgets& budgets) {
  std::vector<std::string> complaints;
  for (const auto& [name, kernel] : report.kernels) {
    const auto found = budgets.find(name);
    const std::string needs =
        std::to_string(kernel.registers) + " " + std::to_string(kernel.shared_bytes) + " " + name;
    if (found == budgets.end()) {
      complaints.push_back("no budget for: " + needs);
    } else if (kernel.registers > found->second.registers) {
      complaints.push_back("more registers than its budget: " + needs);
    } else if (kernel.shared_bytes > found->second.shared_bytes) {
      complaints.push_back("more shared memory than its budget: " + needs);
    }
  }
  for (const auto& [name, budget] : budgets) {
    if (report.kernels.count(name) == 0) complaints.push_back("no such kernel: " + name);
  }
  return complaints;
}

}  // namespace sluice::testing

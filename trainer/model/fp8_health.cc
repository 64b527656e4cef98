#include "trainer/model/fp8_health.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <sstream>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace sluice::trainer {
namespace {

double Percent(int64_t part, int64_t whole) {
  return whole > 0 ? 100.0 * static_cast<double>(part) / static_cast<double>(whole) : 0;
}

void Add(const kernels::QuantizationStats& from, kernels::QuantizationStats& to) {
  to.amax = std::max(to.amax, from.amax);
  to.count += from.count;
  to.underflows += from.underflows;
  to.clipped += from.clipped;
}

void Add(const ShadowProduct& from, ShadowProduct& to) {
  to.difference += from.difference;
  to.norm += from.norm;
}

std::string TextOf(const kernels::QuantizationStats& s) {
  return absl::StrFormat(" %.17g %d %d %d", s.amax, s.count, s.underflows, s.clipped);
}

}  // namespace

double ShadowProduct::RelativeError() const {
  if (!std::isfinite(difference) || !std::isfinite(norm)) {
    return std::numeric_limits<double>::infinity();
  }
  return norm > 0 ? std::sqrt(difference / norm) : 0;
}

double Fp8LayerHealth::RelativeError() const {
  return std::max({y.RelativeError(), dx.RelativeError(), dw.RelativeError()});
}

std::string Fp8LayerName(const Parameter& weight) {
  std::string name = weight.pieces[0].name;
  const std::string experts = ".experts.";
  const size_t at = name.find(experts);
  if (at == std::string::npos) return name;
  const size_t number = at + experts.size(), end = name.find('.', number);
  return name.substr(0, number) + name.substr(end + 1);
}

Fp8LayerHealth& Fp8Health::Named(const std::string& name) {
  for (const auto& layer : layers_) {
    if (layer->name == name) return *layer;
  }
  layers_.push_back(std::make_unique<Fp8LayerHealth>());
  layers_.back()->name = name;
  return *layers_.back();
}

Fp8LayerHealth& Fp8Health::LayerOf(const Parameter& weight) { return Named(Fp8LayerName(weight)); }

void Fp8Health::Merge(const Fp8Health& other) {
  for (const auto& from : other.layers_) {
    Fp8LayerHealth& to = Named(from->name);
    Add(from->x, to.x);
    Add(from->w, to.w);
    Add(from->dy, to.dy);
    Add(from->y, to.y);
    Add(from->dx, to.dx);
    Add(from->dw, to.dw);
  }
  std::sort(layers_.begin(), layers_.end(),
            [](const auto& a, const auto& b) { return a->name < b->name; });
}

std::string Fp8Health::Serialize() const {
  std::string text;
  for (const auto& l : layers_) {
    absl::StrAppend(&text, l->name, TextOf(l->x), TextOf(l->w), TextOf(l->dy));
    for (const ShadowProduct& product : {l->y, l->dx, l->dw}) {
      absl::StrAppendFormat(&text, " %.17g %.17g", product.difference, product.norm);
    }
    text += '\n';
  }
  return text;
}

absl::StatusOr<Fp8Health> Fp8Health::Parse(const std::string& text) {
  Fp8Health health;
  std::istringstream lines(text);
  std::string line;
  while (std::getline(lines, line)) {
    std::istringstream in(line);
    std::string name, word;
    in >> name;
    Fp8LayerHealth& l = health.Named(name);
    const auto number = [&](double* value) {
      in >> word;  // strtod knows "nan" and "inf", streams do not
      *value = std::strtod(word.c_str(), nullptr);
    };
    for (kernels::QuantizationStats* s : {&l.x, &l.w, &l.dy}) {
      number(&s->amax);
      in >> s->count >> s->underflows >> s->clipped;
    }
    for (ShadowProduct* product : {&l.y, &l.dx, &l.dw}) {
      number(&product->difference);
      number(&product->norm);
    }
    if (!in) return absl::InternalError(absl::StrCat("FP8 health arrived damaged: ", line));
  }
  return health;
}

std::string Fp8Health::Table() const {
  std::string text = absl::StrFormat("  %-52s", "layer");
  for (const char* operand : {"x", "w", "dy"}) {
    absl::StrAppendFormat(&text, " %8s %6s %5s", absl::StrCat("amax ", operand), "under%", "clip%");
  }
  absl::StrAppendFormat(&text, " %8s %8s %8s\n", "error y", "error dx", "error dW");
  for (const auto& l : layers_) {
    absl::StrAppendFormat(&text, "  %-52s", l->name);
    for (const kernels::QuantizationStats& s : {l->x, l->w, l->dy}) {
      absl::StrAppendFormat(&text, " %8.2g %6.2f %5.2f", s.amax, Percent(s.underflows, s.count),
                            Percent(s.clipped, s.count));
    }
    absl::StrAppendFormat(&text, " %8.1e %8.1e %8.1e\n", l->y.RelativeError(),
                          l->dx.RelativeError(), l->dw.RelativeError());
  }
  return text;
}

}  // namespace sluice::trainer

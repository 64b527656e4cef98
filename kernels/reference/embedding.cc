#include "kernels/reference/embedding.h"

#include "kernels/reference/access.h"

namespace sluice::kernels::reference {

void Embedding(const EmbeddingArgs& args) {
  for (int64_t t = 0; t < args.y.extent(0); ++t) {
    const int64_t token = Index(args.tokens, t);
    for (int64_t h = 0; h < args.y.extent(1); ++h) Set(args.y, Get(args.table, token, h), t, h);
  }
}

void EmbeddingBackward(const EmbeddingBackwardArgs& args) {
  for (int64_t t = 0; t < args.dy.extent(0); ++t) {
    const int64_t token = Index(args.tokens, t);
    for (int64_t h = 0; h < args.dy.extent(1); ++h) {
      Set(args.dtable, Get(args.dtable, token, h) + Get(args.dy, t, h), token, h);
    }
  }
}

}  // namespace sluice::kernels::reference

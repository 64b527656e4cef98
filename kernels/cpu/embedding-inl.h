namespace sluice::kernels::cpu::SLUICE_TARGET {

template <typename T>
inline void EmbeddingBackwardColumns(const EmbeddingBackwardArgs& args, int64_t begin,
                                     int64_t end) {
  const int32_t* tokens = args.tokens.data<int32_t>();
  for (int64_t t = 0; t < args.dy.extent(0); ++t) {
    const T* dy = args.dy.data<T>() + t * args.dy.row_stride();
    float* row = args.dtable.mutable_data<float>() + tokens[t] * args.dtable.row_stride();
    int64_t h = begin;
    for (; h + kLanes <= end; h += kLanes) Store(row + h, Add(Load(row + h), Load(dy + h)));
    if (h < end) {
      const int rest = static_cast<int>(end - h);
      Store(row + h, Add(Load(row + h, rest), Load(dy + h, rest)), rest);
    }
  }
}

inline constexpr EmbeddingTable kEmbeddingTable = {
    .backward = {.f32 = EmbeddingBackwardColumns<float>,
                 .bf16 = EmbeddingBackwardColumns<BFloat16>},
};

}  // namespace sluice::kernels::cpu::SLUICE_TARGET

namespace sluice::kernels::cpu::SLUICE_TARGET {

inline constexpr MatmulTable kMatmulTable = {.tile_rows = kLanes == 16 ? 12 : 4};

}  // namespace sluice::kernels::cpu::SLUICE_TARGET

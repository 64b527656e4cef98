#include "kernels/ops/check_quantized.h"

#include "kernels/ops/check_arguments.h"
#include "kernels/ops/dispatch.h"

namespace sluice::kernels {

int64_t CheckOffsets(const Stream& stream, const ConstTensorView& offsets) {
  if (offsets.is_null()) return 1;
  CheckTensor(stream, "offsets", offsets, offsets.shape(), DType::kI32);
  CHECK(offsets.shape().rank() == 1 && offsets.extent(0) >= 1) << offsets.shape();
  return offsets.extent(0) - 1;
}

void CheckRows(const Stream& stream, const QuantizedRows& rows, const Shape& shape,
               int64_t num_tiles) {
  CheckTensor(stream, "rows.codes", rows.codes, shape, DType::kE4M3);
  CheckTensor(stream, "rows.scales", rows.scales, {shape[0], num_tiles}, DType::kF32);
}

void CheckColumns(const Stream& stream, const QuantizedColumns& columns, const Shape& shape,
                  int64_t groups) {
  CHECK(!columns.transposed || IsOnCuda(stream)) << "the CPU writes columns as rows";
  const Shape of_codes =
      columns.transposed ? Shape{shape[1], NumColumnCodes(shape[0], groups)} : shape;
  CheckTensor(stream, "columns.codes", columns.codes, of_codes, DType::kE4M3);
  CheckTensor(stream, "columns.scales", columns.scales,
              {NumColumnTiles(shape[0], groups), shape[1]}, DType::kF32);
}

}  // namespace sluice::kernels

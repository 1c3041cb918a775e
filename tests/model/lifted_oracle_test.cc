// The kernels' decoding of the committed fixture against what tests/model/lifted_reader.py, which
// shares no code with them, wrote beside it.
#include <gtest/gtest.h>

#include <fstream>
#include <iterator>

#include "kernels/base/thread_pool.h"
#include "kernels/cpu/cpu_backend.h"

namespace lift {
namespace {

std::vector<float> ReadFloats(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  const std::string bytes((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
  std::vector<float> values(bytes.size() / sizeof(float));
  std::copy_n(bytes.data(), values.size() * sizeof(float), reinterpret_cast<char*>(values.data()));
  return values;
}

// `tensor` as the kernels read it at one variant.
LiftedMatrix AtVariant(const LiftedFile& file, int tensor, const LiftedVariant& variant,
                       const Rotation& rotation) {
  const LiftedTensor& t = file.tensors()[static_cast<size_t>(tensor)];
  LiftedMatrix matrix;
  matrix.rows = t.rows, matrix.cols = t.cols;
  matrix.row_scale = t.row_scale.data();
  matrix.rotation = &rotation;
  for (const LiftStage& stage : t.stages) {
    matrix.stages.push_back({&file.codes()[static_cast<size_t>(stage.code)], 0, stage.gain,
                             file.planes().data() + stage.offset});
  }
  matrix.stage_rows = file.StageRows(tensor, variant.plane_bytes);
  return matrix;
}

TEST(LiftedOracle, EveryTensorAndVariantOfTheFixture) {
  const auto file = LiftedFile::Open(LIFT_TEST_DATA "/lifted_v1.lift");
  ASSERT_TRUE(file.ok()) << file.status();
  const std::vector<float> expected = ReadFloats(LIFT_TEST_DATA "/lifted_v1.values");
  ThreadPool pool(1);
  const auto backend = MakeCpuBackend(pool);
  size_t at = 0;
  for (const LiftedVariant& variant : (*file)->variants()) {
    for (size_t t = 0; t < (*file)->tensors().size(); ++t) {
      const LiftedTensor& tensor = (*file)->tensors()[t];
      const Rotation rotation(tensor.rotation, tensor.cols);
      const LiftedMatrix matrix = AtVariant(**file, static_cast<int>(t), variant, rotation);
      std::vector<float> row(static_cast<size_t>(tensor.cols));
      for (int64_t r = 0; r < tensor.rows; ++r) {
        backend->LiftedRow(matrix, r, 0, row.data());
        ASSERT_LE(at + row.size(), expected.size());
        for (const float value : row) {
          ASSERT_LE(std::abs(value - expected[at]), 1e-6f)
              << variant.name << " " << tensor.name << " row " << r;
          ++at;
        }
      }
    }
  }
  EXPECT_EQ(at, expected.size());
}

}  // namespace
}  // namespace lift

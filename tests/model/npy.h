// Reads the float32 .npy goldens.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

namespace lift::testing {

struct NpyArray {
  std::vector<int64_t> shape;
  std::vector<float> values;
};

// Version 1 files of '<f4' in C order, as numpy.save writes them; a test failure and an empty array
// otherwise.
inline NpyArray ReadNpy(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  const std::string bytes((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
  NpyArray array;
  if (bytes.size() < 10 || bytes.compare(0, 6, "\x93NUMPY") != 0) {
    ADD_FAILURE() << "cannot read " << path;
    return array;
  }
  const size_t header = static_cast<uint8_t>(bytes[8]) + 256u * static_cast<uint8_t>(bytes[9]);
  const std::string text = bytes.substr(10, header);
  EXPECT_NE(text.find("'<f4'"), std::string::npos) << path;
  EXPECT_NE(text.find("'fortran_order': False"), std::string::npos) << path;
  size_t at = text.find("'shape': (") + 10, count = 1;
  while (at < text.size() && text[at] != ')') {
    size_t used = 0;
    array.shape.push_back(std::stoll(text.substr(at), &used));
    count *= static_cast<size_t>(array.shape.back());
    at += used;
    while (at < text.size() && (text[at] == ',' || text[at] == ' ')) ++at;
  }
  array.values.resize(count);
  if (bytes.size() != 10 + header + count * sizeof(float)) {
    ADD_FAILURE() << path << " has the wrong size";
    return array;
  }
  std::copy_n(bytes.data() + 10 + header, count * sizeof(float),
              reinterpret_cast<char*>(array.values.data()));
  return array;
}

}  // namespace lift::testing

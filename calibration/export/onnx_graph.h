// Builds an ONNX model node by node, weights in a file beside it. Writes protobuf's wire format
// itself: the dozen messages of onnx.proto3 that a plain graph needs, so that the calibrator links
// no protobuf.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "calibration/export/output_file.h"
#include "kernels/base/status.h"

namespace lift {

// One protobuf message under construction.
class WireMessage {
 public:
  WireMessage& Int(int field, int64_t value);
  WireMessage& Float(int field, float value);
  WireMessage& Bytes(int field, std::string_view bytes);  // strings and nested messages
  WireMessage& Message(int field, const WireMessage& m) { return Bytes(field, m.bytes_); }
  const std::string& bytes() const { return bytes_; }

 private:
  void Varint(uint64_t value);
  std::string bytes_;
};

// Values are named; every method that makes one returns its name. Opset 17.
class OnnxGraph {
 public:
  using Value = std::string;
  // A graph within a node; it may use values of the graph around it.
  struct Body {
    WireMessage message;
  };
  using Attribute =
      std::pair<const char*, std::variant<int64_t, float, std::vector<int64_t>, Body>>;

  // `folder` exists; the weights go to FOLDER/model.onnx.data.
  explicit OnnxGraph(const std::string& folder);

  Value Op(const char* type, const std::vector<Value>& inputs,
           const std::vector<Attribute>& attributes = {});
  std::vector<Value> Op(const char* type, const std::vector<Value>& inputs, int outputs,
                        const std::vector<Attribute>& attributes);

  Value Ints(const std::vector<int64_t>& values);  // [n]
  Value Int(int64_t value);                        // scalar
  Value Float(float value);                        // scalar
  Value Floats(const std::vector<int64_t>& shape, std::span<const float> values);
  // Appends to the data file; Begin ... Append ... makes one tensor.
  Value BeginWeights(const std::string& name, const std::vector<int64_t>& shape);
  void AppendWeights(std::span<const float> values);

  // `shape`: numbers, or names of free dimensions, unique in the model. element: kFloat or kInt64.
  enum Element { kFloat = 1, kInt64 = 7 };
  using Dimension = std::variant<int64_t, std::string>;
  void Input(const std::string& name, Element element, const std::vector<Dimension>& shape);
  // Names `value` as an output of the model.
  void Output(const Value& value, const std::string& name, Element element,
              const std::vector<Dimension>& shape);

  // Between them, ops, constants, inputs and outputs belong to the body. One at a time.
  void BeginBody();
  Body EndBody(const std::string& name);

  // Writes FOLDER/model.onnx, with `metadata` as the model's properties.
  absl::Status Finish(const std::string& graph_name,
                      const std::vector<std::pair<std::string, std::string>>& metadata);

 private:
  Value Fresh() { return "v" + std::to_string(next_++); }
  void AddInitializer(const std::string& name, Element element, const std::vector<int64_t>& shape,
                      std::string_view raw);

  std::string folder_;
  OutputFile data_;
  uint64_t data_bytes_ = 0;
  int next_ = 0;
  WireMessage graph_, outer_;
};

}  // namespace lift

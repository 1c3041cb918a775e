#include "calibration/export/onnx_graph.h"

#include <bit>

#include "absl/strings/str_cat.h"

namespace lift {
namespace {

constexpr char kDataFile[] = "model.onnx.data";
constexpr uint64_t kDataAlignment = 4096;  // so that runtimes can map each tensor

// Field numbers of onnx.proto3.
namespace model {
enum { kIrVersion = 1, kProducer = 2, kGraph = 7, kOpset = 8, kMetadata = 14 };
}
namespace graph {
enum { kNode = 1, kName = 2, kInitializer = 5, kInput = 11, kOutput = 12 };
}
namespace node {
enum { kInput = 1, kOutput = 2, kName = 3, kOpType = 4, kAttribute = 5 };
}
namespace attribute {
enum { kName = 1, kFloat = 2, kInt = 3, kGraph = 6, kInts = 8, kType = 20 };
enum Type { kTypeFloat = 1, kTypeInt = 2, kTypeGraph = 5, kTypeInts = 7 };
}  // namespace attribute
namespace tensor {
enum { kDims = 1, kDataType = 2, kName = 8, kRawData = 9, kExternalData = 13, kDataLocation = 14 };
}

constexpr int64_t kIrVersionOfOpset17 = 8, kOpsetVersion = 17;

WireMessage Entry(std::string_view key, std::string_view value) {
  WireMessage entry;
  entry.Bytes(1, key).Bytes(2, value);
  return entry;
}

WireMessage ToMessage(const OnnxGraph::Attribute& a) {
  WireMessage message;
  message.Bytes(attribute::kName, a.first);
  if (const auto* i = std::get_if<int64_t>(&a.second)) {
    message.Int(attribute::kInt, *i).Int(attribute::kType, attribute::kTypeInt);
  } else if (const auto* f = std::get_if<float>(&a.second)) {
    message.Float(attribute::kFloat, *f).Int(attribute::kType, attribute::kTypeFloat);
  } else if (const auto* body = std::get_if<OnnxGraph::Body>(&a.second)) {
    message.Message(attribute::kGraph, body->message);
    message.Int(attribute::kType, attribute::kTypeGraph);
  } else {
    for (const int64_t n : std::get<std::vector<int64_t>>(a.second))
      message.Int(attribute::kInts, n);
    message.Int(attribute::kType, attribute::kTypeInts);
  }
  return message;
}

// ValueInfoProto{name, TypeProto{tensor_type{elem_type, shape{dim...}}}}.
WireMessage ValueInfo(const std::string& name, OnnxGraph::Element element,
                      const std::vector<OnnxGraph::Dimension>& shape) {
  WireMessage dims, tensor_type, type, info;
  for (const OnnxGraph::Dimension& d : shape) {
    WireMessage dim;
    if (const auto* size = std::get_if<int64_t>(&d)) {
      dim.Int(1, *size);
    } else {
      dim.Bytes(2, std::get<std::string>(d));
    }
    dims.Message(1, dim);
  }
  tensor_type.Int(1, element).Message(2, dims);
  type.Message(1, tensor_type);
  info.Bytes(1, name).Message(2, type);
  return info;
}

template <typename T>
std::string_view RawBytes(std::span<const T> values) {
  return {reinterpret_cast<const char*>(values.data()), values.size_bytes()};
}

}  // namespace

void WireMessage::Varint(uint64_t value) {
  for (; value >= 128; value >>= 7) bytes_ += static_cast<char>(value | 128);
  bytes_ += static_cast<char>(value);
}

WireMessage& WireMessage::Int(int field, int64_t value) {
  Varint(static_cast<uint64_t>(field) << 3);
  Varint(static_cast<uint64_t>(value));
  return *this;
}

WireMessage& WireMessage::Float(int field, float value) {
  Varint(static_cast<uint64_t>(field) << 3 | 5);
  const auto bits = std::bit_cast<uint32_t>(value);
  for (int i = 0; i < 4; ++i) bytes_ += static_cast<char>(bits >> (8 * i) & 255);
  return *this;
}

WireMessage& WireMessage::Bytes(int field, std::string_view bytes) {
  Varint(static_cast<uint64_t>(field) << 3 | 2);
  Varint(bytes.size());
  bytes_ += bytes;
  return *this;
}

OnnxGraph::OnnxGraph(const std::string& folder)
    : folder_(folder), data_(absl::StrCat(folder, "/", kDataFile)) {}

std::vector<OnnxGraph::Value> OnnxGraph::Op(const char* type, const std::vector<Value>& inputs,
                                            int outputs, const std::vector<Attribute>& attributes) {
  WireMessage message;
  std::vector<Value> made;
  for (const Value& input : inputs) message.Bytes(node::kInput, input);
  for (int i = 0; i < outputs; ++i) made.push_back(Fresh());
  for (const Value& output : made) message.Bytes(node::kOutput, output);
  message.Bytes(node::kName, absl::StrCat(type, "_", made[0])).Bytes(node::kOpType, type);
  for (const Attribute& a : attributes) message.Message(node::kAttribute, ToMessage(a));
  graph_.Message(graph::kNode, message);
  return made;
}

OnnxGraph::Value OnnxGraph::Op(const char* type, const std::vector<Value>& inputs,
                               const std::vector<Attribute>& attributes) {
  return Op(type, inputs, 1, attributes)[0];
}

void OnnxGraph::AddInitializer(const std::string& name, Element element,
                               const std::vector<int64_t>& shape, std::string_view raw) {
  WireMessage message;
  for (const int64_t n : shape) message.Int(tensor::kDims, n);
  message.Int(tensor::kDataType, element).Bytes(tensor::kName, name).Bytes(tensor::kRawData, raw);
  graph_.Message(graph::kInitializer, message);
}

OnnxGraph::Value OnnxGraph::Ints(const std::vector<int64_t>& values) {
  const Value name = Fresh();
  AddInitializer(name, kInt64, {static_cast<int64_t>(values.size())},
                 RawBytes(std::span<const int64_t>(values)));
  return name;
}

OnnxGraph::Value OnnxGraph::Int(int64_t value) {
  const Value name = Fresh();
  AddInitializer(name, kInt64, {}, RawBytes(std::span<const int64_t>(&value, 1)));
  return name;
}

OnnxGraph::Value OnnxGraph::Float(float value) { return Floats({}, std::span(&value, 1)); }

OnnxGraph::Value OnnxGraph::Floats(const std::vector<int64_t>& shape,
                                   std::span<const float> values) {
  const Value name = Fresh();
  AddInitializer(name, kFloat, shape, RawBytes(values));
  return name;
}

OnnxGraph::Value OnnxGraph::BeginWeights(const std::string& name,
                                         const std::vector<int64_t>& shape) {
  const uint64_t padding = (kDataAlignment - data_bytes_ % kDataAlignment) % kDataAlignment;
  data_.Write(std::string(padding, '\0'));
  data_bytes_ += padding;
  uint64_t bytes = sizeof(float);
  WireMessage message;
  for (const int64_t n : shape) {
    message.Int(tensor::kDims, n);
    bytes *= static_cast<uint64_t>(n);
  }
  message.Int(tensor::kDataType, kFloat).Bytes(tensor::kName, name);
  message.Message(tensor::kExternalData, Entry("location", kDataFile));
  message.Message(tensor::kExternalData, Entry("offset", std::to_string(data_bytes_)));
  message.Message(tensor::kExternalData, Entry("length", std::to_string(bytes)));
  message.Int(tensor::kDataLocation, 1);
  graph_.Message(graph::kInitializer, message);
  return name;
}

void OnnxGraph::AppendWeights(std::span<const float> values) {
  data_.Write(values);
  data_bytes_ += values.size_bytes();
}

void OnnxGraph::Input(const std::string& name, Element element,
                      const std::vector<Dimension>& shape) {
  graph_.Message(graph::kInput, ValueInfo(name, element, shape));
}

void OnnxGraph::Output(const Value& value, const std::string& name, Element element,
                       const std::vector<Dimension>& shape) {
  WireMessage identity;
  identity.Bytes(node::kInput, value).Bytes(node::kOutput, name);
  identity.Bytes(node::kName, name).Bytes(node::kOpType, "Identity");
  graph_.Message(graph::kNode, identity);
  graph_.Message(graph::kOutput, ValueInfo(name, element, shape));
}

void OnnxGraph::BeginBody() {
  outer_ = std::move(graph_);
  graph_ = {};
}

OnnxGraph::Body OnnxGraph::EndBody(const std::string& name) {
  graph_.Bytes(graph::kName, name);
  Body body{std::move(graph_)};
  graph_ = std::move(outer_);
  outer_ = {};
  return body;
}

absl::Status OnnxGraph::Finish(const std::string& graph_name,
                               const std::vector<std::pair<std::string, std::string>>& metadata) {
  LIFT_RETURN_IF_ERROR(data_.Finish());
  graph_.Bytes(graph::kName, graph_name);
  WireMessage opset, out;
  opset.Bytes(1, "").Int(2, kOpsetVersion);
  out.Int(model::kIrVersion, kIrVersionOfOpset17).Bytes(model::kProducer, "LiftServe");
  out.Message(model::kGraph, graph_).Message(model::kOpset, opset);
  for (const auto& [key, value] : metadata) out.Message(model::kMetadata, Entry(key, value));
  OutputFile file(folder_ + "/model.onnx");
  file.Write(out.bytes());
  return file.Finish();
}

}  // namespace lift

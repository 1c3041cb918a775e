// Raw messages <-> protobuf. The services take raw bytes so that a message gRPC could not parse (a
// string that is not UTF-8) is answered with INVALID_ARGUMENT and details instead of gRPC's bare
// UNIMPLEMENTED.
#pragma once

#include <google/protobuf/message.h>
#include <grpcpp/support/byte_buffer.h>

#include "kernels/base/status.h"

namespace lift::rpc {

// INVALID_ARGUMENT (reason MALFORMED_MESSAGE) if the bytes are not a message of this type. Copies
// nothing it need not.
absl::Status ParseMessage(const grpc::ByteBuffer& buffer, google::protobuf::Message& message);
grpc::ByteBuffer SerializeMessage(const google::protobuf::Message& message);

}  // namespace lift::rpc

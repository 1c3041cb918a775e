// What lift-client prints.
#pragma once

#include <grpcpp/support/status.h>

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "liftserve/v1/types.pb.h"

namespace lift::client {

namespace api = liftserve::v1;

// A streamed answer, gathered.
struct Answer {
  std::string text;
  std::vector<int32_t> token_ids;
  std::vector<api::PositionLogprobs> logprobs;
  api::Started started;
  api::Finished finished;
};

nlohmann::json AnswerJson(const Answer& answer);
// Two lines for people: what served it, what it used.
std::string AnswerSummary(const Answer& answer);
// "CODE (REASON): message", the reason from the status details.
std::string ErrorText(const grpc::Status& status);
// protobuf JSON; every field present.
std::string MessageJson(const google::protobuf::Message& message, bool pretty);

}  // namespace lift::client

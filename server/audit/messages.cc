#include "server/audit/messages.h"

#include <google/protobuf/descriptor.h>
#include <google/protobuf/message.h>

namespace lift {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;

// Field numbers are VisitDecision's order, so both go through it and neither can forget a field.
struct Writer {
  Message& message;
  int number = 0;
  const FieldDescriptor* Next() { return message.GetDescriptor()->FindFieldByNumber(++number); }
  void operator()(const char*, int64_t value) {
    message.GetReflection()->SetInt64(&message, Next(), value);
  }
  void operator()(const char*, bool value) {
    message.GetReflection()->SetBool(&message, Next(), value);
  }
  void operator()(const char*, double value) {
    message.GetReflection()->SetDouble(&message, Next(), value);
  }
  void operator()(const char*, const std::string& value) {
    message.GetReflection()->SetString(&message, Next(), value);
  }
};

struct Reader {
  const Message& message;
  int number = 0;
  const FieldDescriptor* Next() { return message.GetDescriptor()->FindFieldByNumber(++number); }
  void operator()(const char*, int64_t& value) {
    value = message.GetReflection()->GetInt64(message, Next());
  }
  void operator()(const char*, bool& value) {
    value = message.GetReflection()->GetBool(message, Next());
  }
  void operator()(const char*, double& value) {
    value = message.GetReflection()->GetDouble(message, Next());
  }
  void operator()(const char*, std::string& value) {
    value = message.GetReflection()->GetString(message, Next());
  }
};

}  // namespace

liftserve::v1::RoutingDecision ToMessage(const RoutingDecision& decision) {
  liftserve::v1::RoutingDecision message;
  VisitDecision(decision, Writer{message});
  return message;
}

RoutingDecision FromMessage(const liftserve::v1::RoutingDecision& message) {
  RoutingDecision decision;
  VisitDecision(decision, Reader{message});
  return decision;
}

liftserve::v1::DecisionLogHead ToMessage(const DecisionHead& head) {
  liftserve::v1::DecisionLogHead message;
  message.set_log_id(head.log_id);
  message.set_count(head.count);
  message.set_hash(head.hash);
  message.set_key_id(head.key_id);
  message.set_seal(head.seal);
  return message;
}

DecisionHead FromMessage(const liftserve::v1::DecisionLogHead& message) {
  return {.log_id = message.log_id(),
          .count = message.count(),
          .hash = message.hash(),
          .key_id = message.key_id(),
          .seal = message.seal()};
}

}  // namespace lift

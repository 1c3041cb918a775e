#include "server/client/options.h"

#include <CLI/CLI.hpp>
#include <set>

#include "absl/strings/str_cat.h"

namespace lift::client {
namespace {

void AddPrecision(CLI::App& app, ClientOptions& o) {
  app.add_option("--variant,--pinned", o.variant, "Serve with exactly this variant");
  app.add_option("--min-lambda", o.min_lambda, "Floor: at least this precision (0 to 1)");
  app.add_option("--max-quality-loss", o.max_quality_loss,
                 "Cap on the calibrated KL divergence from the source model, nats");
  app.add_flag("--allow-fallback", o.allow_fallback,
               "Serve with the finest variant if no variant meets the floor");
}

void AddGeneration(CLI::App& app, ClientOptions& o) {
  app.add_option("--request-id", o.request_id, "Id for `cancel`; the server makes one if absent");
  app.add_option("--max-new-tokens", o.max_new_tokens, "Most tokens to generate");
  app.add_option("--min-new-tokens", o.min_new_tokens, "Fewest tokens to generate");
  app.add_option("--temperature", o.temperature, "0 = greedy");
  app.add_option("--top-p", o.top_p, "Nucleus sampling");
  app.add_option("--top-k", o.top_k, "Sample among the k best");
  app.add_option("--min-p", o.min_p, "Drop tokens below this fraction of the best");
  app.add_option("--repetition-penalty", o.repetition_penalty, "1 = off");
  app.add_option("--presence-penalty", o.presence_penalty, "0 = off");
  app.add_option("--frequency-penalty", o.frequency_penalty, "0 = off");
  app.add_option("--seed", o.seed, "Makes sampling repeatable");
  app.add_option("--stop", o.stop, "End before this string (may be repeated)")
      ->allow_extra_args(false);
  app.add_option("--stop-token-ids", o.stop_token_ids, "End at these tokens")->delimiter(',');
  app.add_option("--logit-bias", o.logit_bias, "TOKEN_ID:BIAS, comma-separated")->delimiter(',');
  app.add_flag("--ignore-eos", o.ignore_eos, "Go on after the end-of-text token");
  app.add_option("--logprobs", o.logprobs, "Report log-probabilities with this many alternatives");
  app.add_option("--priority", o.priority, "Higher runs first when requests wait");
  AddPrecision(app, o);
  AddConstraintFlags(app, o.constraint);
}

CLI::App* AddCommand(CLI::App& app, const char* name, const char* help) {
  CLI::App* command = app.add_subcommand(name, help);
  command->fallthrough();  // --json and --server also work after the command's name
  return command;
}

void AddPromptCommands(CLI::App& app, ClientOptions& o) {
  CLI::App* generate = AddCommand(app, "generate", "Continue a prompt; prints text as it comes");
  generate->add_option("--prompt", o.prompt, "Text to continue");
  generate->add_option("--token-ids", o.token_ids, "Tokens to continue instead of text")
      ->delimiter(',');
  generate->add_flag("--parse-special", o.parse_special,
                     "Special tokens in --prompt are control tokens");
  AddGeneration(*generate, o);

  CLI::App* chat = AddCommand(app, "chat", "Answer a conversation; prints text as it comes");
  chat->add_option("--prompt", o.prompt, "The user's message");
  chat->add_option("--system", o.system, "The system message before it");
  chat->add_option("--messages", o.messages_file,
                   "JSON file with a whole conversation: [{\"role\", \"content\"}, ...]");
  AddGeneration(*chat, o);

  CLI::App* explain =
      AddCommand(app, "explain", "Dry run: which variant would serve this, and why");
  explain->add_option("--prompt", o.prompt, "Text that would be asked")->required();
  AddPrecision(*explain, o);
}

void AddOtherCommands(CLI::App& app, ClientOptions& o) {
  AddCommand(app, "models", "Models and their resident variants");
  AddCommand(app, "info", "The server's version, build and device");
  AddCommand(app, "load", "Requests and state blocks right now");
  CLI::App* budget = AddCommand(
      app, "budget", "Keep the finest variants that fit; streams go on (needs the admin role)");
  budget->add_option("--weight-bytes", o.weight_bytes, "Most bytes the weights may take")
      ->required();
  CLI::App* swap =
      AddCommand(app, "swap",
                 "Serve another model from now on; calls that run end at the old one (needs the "
                 "admin role)");
  swap->add_option("--file", o.file,
                   "A file or folder beside the model the server was started with; absent = that "
                   "name again, whose content was replaced");
  CLI::App* health = AddCommand(app, "health", "grpc.health.v1 Check; exits 1 unless SERVING");
  health->add_option("--service", o.service,
                     "\"\" = the server, liftserve.v1.GenerationService, or MODEL/VARIANT");
  CLI::App* cancel = AddCommand(app, "cancel", "End a live request");
  cancel->add_option("--request-id", o.request_id, "Its id")->required();
  CLI::App* tokenize = AddCommand(app, "tokenize", "Text to token ids");
  tokenize->add_option("--text", o.prompt, "The text")->required();
  tokenize->add_flag("--add-special", o.add_special, "Add BOS/EOS as the model wants them");
  tokenize->add_flag("--parse-special", o.parse_special,
                     "Special tokens in the text are control tokens");
  CLI::App* detokenize = AddCommand(app, "detokenize", "Token ids to text");
  detokenize->add_option("--token-ids", o.token_ids, "The ids")->delimiter(',')->required();
}

void AddPeriod(CLI::App& command, ClientOptions& o) {
  command.add_option("--of-variant", o.usage_variant, "Only this variant");
  command.add_option("--month", o.month, "YYYY-MM, UTC");
  command.add_option("--begin", o.begin, "YYYY-MM-DD or YYYY-MM-DDTHH, UTC, inclusive");
  command.add_option("--end", o.end, "Likewise, exclusive");
}

void AddBillingCommands(CLI::App& app, ClientOptions& o) {
  const auto format = [&](CLI::App* command, std::set<std::string> names) {
    command->add_option("--format", o.format, "How it is printed")
        ->check(CLI::IsMember(std::move(names)));
  };
  const auto by = [&](CLI::App* command) {
    command->add_option("--by", o.by, "Cut the period by hour or day")
        ->check(CLI::IsMember({"total", "hour", "day"}))
        ->capture_default_str();
  };
  CLI::App* usage = AddCommand(app, "usage", "Memory x time by tenant and variant");
  usage->add_option("--of-tenant", o.usage_tenant, "Only this tenant");
  AddPeriod(*usage, o);
  by(usage);
  format(usage, {"text", "json", "csv"});
  CLI::App* records = AddCommand(app, "records", "What each request used (the server's ledger)");
  records->add_option("--of-tenant", o.usage_tenant, "Only this tenant");
  AddPeriod(*records, o);
  format(records, {"text", "json", "csv"});
  CLI::App* bill = AddCommand(app, "bill", "An invoice in GiB-hours from the server's ledger");
  bill->add_option("--tenant", o.usage_tenant, "Whose; all tenants and idle memory if absent");
  AddPeriod(*bill, o);
  bill->add_option("--price", o.price, "Of a GiB-hour, a decimal number")->required();
  bill->add_option("--tiers", o.tiers,
                   "Price by precision: NAME=MAX_LAMBDA:FACTOR,..., e.g. "
                   "economy=0.5:0.8,premium=1:1.25");
  bill->add_option("--currency", o.currency, "Its code")->capture_default_str();
  by(bill);
  format(bill, {"text", "json", "csv", "focus"});
}

constexpr const char* kVerifyHelp =
    "Checks that the log of routing decisions is as the server wrote it.\n"
    "Found: a row that was changed, removed, inserted or put elsewhere, and rows cut off the end. "
    "Not found without --head: a ledger that was put back to an older copy of itself, and, where "
    "the server has no --audit-key-file, a log that was written anew from its beginning or cut "
    "together with its head. The head that is printed is what to keep for that.\n"
    "Exit codes: 0 intact, 3 broken (the first bad row is named), 1 the log could not be read, 2 "
    "the command line is wrong or a key is missing.";
constexpr const char* kParityHelp =
    "Compares the precision that groups of requests were served at where their complexity was "
    "equal.\n"
    "Rows are compared with rows of the same weights, policy, resident variants, floors and queue "
    "pressure; within those, lambda is measured against a monotone fit on the complexity score, "
    "and labels of groups are permuted among neighbours in score. Pinned requests are left out. "
    "The log's score is taken as given: see ExplainRoute for how it comes about.\n"
    "Exit codes: 0 no difference found, 3 a group is served worse or better, 1 the log could not "
    "be read, 2 the command line is wrong.";

void AddAuditSource(CLI::App& command, ClientOptions& o) {
  command.add_option("--ledger", o.ledger_file,
                     "Read this ledger file (of lift-server --ledger) instead of asking a server");
}

void AddAuditCommands(CLI::App& app, ClientOptions& o) {
  CLI::App* audit = AddCommand(app, "audit", "Check the log of routing decisions");
  audit->require_subcommand(1);
  CLI::App* verify = AddCommand(*audit, "verify", kVerifyHelp);
  AddAuditSource(*verify, o);
  verify->add_option("--audit-key-file", o.audit_key_file, "The server's --audit-key-file");
  verify
      ->add_option("--unkeyed", o.unkeyed,
                   "With a key: so many of the log's first rows are older than it")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  verify->add_option("--head", o.audit_head, "COUNT:HASH that an earlier run printed");
  CLI::App* parity = AddCommand(*audit, "parity", kParityHelp);
  AddAuditSource(*parity, o);
  parity->add_option("--by", o.audit_by, "What makes a group")
      ->check(CLI::IsMember({"tenant", "language", "class"}))
      ->capture_default_str();
  parity->add_option("--of-tenant", o.usage_tenant, "Only this tenant's requests");
  AddPeriod(*parity, o);
  parity
      ->add_option("--measure", o.measure,
                   "served: mean lambda over each answer's tokens; chosen: of the router's variant")
      ->check(CLI::IsMember({"served", "chosen"}))
      ->capture_default_str();
  parity->add_option("--alpha", o.alpha, "Chance to call a fair log unfair, all groups together")
      ->check(CLI::Range(1e-6, 0.5))
      ->capture_default_str();
  parity
      ->add_option("--tolerance", o.tolerance, "Differences below this part of lambda are let pass")
      ->check(CLI::Range(0.0, 1.0))
      ->capture_default_str();
}

absl::Status Check(const ClientOptions& o) {
  if (o.deadline_seconds < 0 || o.deadline_seconds > 1e9) {
    return absl::InvalidArgumentError("--deadline must be 0 (none) or a number of seconds");
  }
  if (o.command == "generate" && o.prompt.empty() == o.token_ids.empty()) {
    return absl::InvalidArgumentError(
        "generate needs --prompt or --token-ids, and only one of them");
  }
  if (o.command == "chat" && o.prompt.empty() == o.messages_file.empty()) {
    return absl::InvalidArgumentError("chat needs --prompt or --messages, and only one of them");
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<ParsedCommandLine> ParseCommandLine(int argc, const char* const* argv,
                                                   const std::string& version) {
  ParsedCommandLine result;
  ClientOptions& o = result.options;
  CLI::App app{
      "Talks to lift-server.\nExit codes: 0 done, 1 the call failed, 2 the command line or "
      "the request is wrong, 3 an audit found something.",
      "lift-client"};
  app.set_version_flag("--version", version);
  app.add_option("--server", o.server, "HOST:PORT of the server")->capture_default_str();
  app.add_option("--api-key-file", o.api_key_file,
                 "File with the API key; else the environment variable LIFTSERVE_API_KEY");
  app.add_flag("--tls", o.tls, "Use TLS and the system's certificate authorities");
  app.add_option("--tls-ca", o.tls_ca, "Use TLS; PEM certificates that sign the server's");
  app.add_option("--tls-cert", o.tls_cert, "PEM certificate chain to show the server (mTLS)");
  app.add_option("--tls-key", o.tls_key, "PEM private key of --tls-cert");
  app.add_option("--tls-server-name", o.tls_server_name,
                 "Name the server's certificate must have, if not the one in --server");
  app.add_option("--tenant", o.tenant, "Whom to account the call to");
  app.add_option("--deadline", o.deadline_seconds, "Give up after this many seconds; 0 = never");
  app.add_option("--model", o.model, "The model's name; needed only where several are served");
  app.add_flag("--json", o.json, "One JSON object on stdout and nothing else");
  app.require_subcommand(1);
  AddPromptCommands(app, o);
  AddOtherCommands(app, o);
  AddBillingCommands(app, o);
  AddAuditCommands(app, o);
  try {
    app.parse(argc, argv);
  } catch (const CLI::CallForHelp&) {
    const CLI::App* chosen = &app;
    while (!chosen->get_subcommands().empty()) chosen = chosen->get_subcommands().front();
    result.print = chosen->help();
    return result;
  } catch (const CLI::CallForVersion&) {
    result.print = version + "\n";
    return result;
  } catch (const CLI::ParseError& error) {
    return absl::InvalidArgumentError(absl::StrCat(error.what(), "; see --help"));
  }
  const CLI::App* chosen = app.get_subcommands().front();
  o.command = chosen->get_name();
  for (const CLI::App* inner : chosen->get_subcommands()) {
    absl::StrAppend(&o.command, "-", inner->get_name());
  }
  LIFT_RETURN_IF_ERROR(Check(o));
  return result;
}

}  // namespace lift::client

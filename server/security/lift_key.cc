// lift-key: makes an API key, prints it once, and adds the record of its salted hash to a keys
// file.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "kernels/base/replace_file.h"
#include "server/security/key_ring.h"

namespace lift {
namespace {

using nlohmann::json;

absl::StatusOr<json> ReadKeys(const std::string& path) {
  std::ifstream in(path);
  if (!in) return json{{"keys", json::array()}};
  json document = json::parse(in, nullptr, /*allow_exceptions=*/false);
  if (!document.is_object()) {
    return absl::InvalidArgumentError(absl::StrCat(path, " is not a JSON object"));
  }
  LIFT_RETURN_IF_ERROR(KeyRing::Parse(document.dump()).status());
  if (!document.contains("keys")) document["keys"] = json::array();
  return document;
}

absl::Status Run(const std::string& path, const std::string& tenant, const std::string& role) {
  LIFT_ASSIGN_OR_RETURN(json document, ReadKeys(path));
  LIFT_ASSIGN_OR_RETURN(const NewKey made, MakeKey());
  document["keys"].push_back({{"id", made.id},
                              {"tenant", tenant},
                              {"role", role},
                              {"salt", made.salt_hex},
                              {"hash", made.hash_hex}});
  LIFT_RETURN_IF_ERROR(KeyRing::Parse(document.dump()).status());
  constexpr mode_t kOwnerOnly = 0600;
  if (!ReplaceFile(path, document.dump(2) + "\n", kOwnerOnly)) {
    return absl::InvalidArgumentError(absl::StrCat(path, " cannot be written"));
  }
  std::printf("%s\n", made.key.c_str());
  return absl::OkStatus();
}

}  // namespace
}  // namespace lift

int main(int argc, char** argv) {
  CLI::App app{
      "Makes an API key for lift-server: prints the key once and adds its salted hash to the keys\n"
      "file (made if it does not exist). Delete a key by deleting its entry; a running server\n"
      "notices.",
      "lift-key"};
  std::string path, tenant, role = "user";
  app.add_option("--file", path, "Keys file, as given to lift-server --auth-keys")->required();
  app.add_option("--tenant", tenant, "Who the key belongs to")->required();
  app.add_option("--role", role, "user or admin")->capture_default_str();
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  const absl::Status status = lift::Run(path, tenant, role);
  if (status.ok()) return 0;
  std::fprintf(stderr, "lift-key: %s\n", std::string(status.message()).c_str());
  return 2;
}

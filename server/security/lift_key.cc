// lift-key: makes an API key, prints it once, and adds the record of its salted hash to a keys
// file.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
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

// Through a new file that only its owner may read, so that a reader sees the old or the new one.
absl::Status WriteKeys(const std::string& path, const json& document) {
  const std::string temporary = path + ".new", text = document.dump(2) + "\n";
  const int file = open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  bool good = file >= 0 &&
              write(file, text.data(), text.size()) == static_cast<ssize_t>(text.size()) &&
              fsync(file) == 0;
  if (file >= 0) good = close(file) == 0 && good;
  if (good && std::rename(temporary.c_str(), path.c_str()) == 0) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(path, " cannot be written"));
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
  LIFT_RETURN_IF_ERROR(WriteKeys(path, document));
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

#include "server/model_host.h"

#include <filesystem>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/errors.h"

namespace lift {
namespace {

constexpr int kSequenceBits = 40;  // of a model's requests; the rest says which model

absl::Status Unusable(const absl::Status& why) {
  return WithReason(absl::FailedPreconditionError(
                        absl::StrCat("the model stays as it was: ", std::string(why.message()))),
                    "MODEL_UNUSABLE", "file");
}

absl::Status Draining() {
  return absl::UnavailableError("DRAINING: the server is shutting down; the model stays");
}

// A pipe would keep whoever opens it waiting.
absl::Status CheckKind(const std::string& path) {
  std::error_code error;
  const auto kind = std::filesystem::status(path, error).type();
  if (kind == std::filesystem::file_type::regular || kind == std::filesystem::file_type::directory)
    return absl::OkStatus();
  return Unusable(absl::NotFoundError(absl::StrCat("'", path, "' is no file and no folder")));
}

// Of a file, or of all files in a folder.
uint64_t BytesAt(const std::string& path) {
  namespace fs = std::filesystem;
  std::error_code error;
  if (!fs::is_directory(path, error)) {
    const uint64_t bytes = fs::file_size(path, error);
    return error ? 0 : bytes;
  }
  uint64_t bytes = 0;
  for (const auto& entry : fs::directory_iterator(path, error)) {
    if (entry.is_regular_file(error)) bytes += entry.file_size(error);
  }
  return bytes;
}

}  // namespace

absl::StatusOr<std::string> SwapPath(const std::string& model, const std::string& file) {
  if (file.empty()) return model;
  if (file == "." || file == ".." || file.find('/') != std::string::npos ||
      file.find('\0') != std::string::npos) {
    return WithReason(
        absl::InvalidArgumentError("file must be the plain name of a file or folder beside the "
                                   "model this server was started with"),
        "INVALID_FIELD", "file");
  }
  std::filesystem::path path(model);
  if (!path.has_filename()) path = path.parent_path();  // "folder/"
  return path.replace_filename(file).string();
}

ModelHost::~ModelHost() {
  ending_ = true;
  Close();
  swapping_.reset();
}

// The last call of a replaced model may end on its engine's own thread.
rpc::ServicesPtr ModelHost::Own(std::unique_ptr<RunningModel> model) {
  const std::shared_ptr<RunningModel> owned(model.release(), [this](RunningModel* last) {
    leaving_.Post([this, last] {
      const std::string name = last->info().name;
      delete last;
      if (!ending_) shared_.report(absl::StrCat("model ", name, " has left memory"));
    });
  });
  const std::lock_guard lock(mutex_);
  std::erase_if(models_, [](const auto& m) { return m.expired(); });
  models_.push_back(owned);
  return {owned, &owned->services()};
}

absl::Status ModelHost::Load() {
  LIFT_ASSIGN_OR_RETURN(std::unique_ptr<RunningModel> model,
                        RunningModel::Load(shared_, config_, /*first_sequence=*/1));
  first_ = model.get();
  slot_ = std::make_unique<rpc::ModelSlot>(shared_.services, Own(std::move(model)));
  // Calls may come before Serve, and read what they share without a lock.
  shared_.services.swap_model = [this](const std::string& file, Done done) {
    Swap(file, std::move(done));
  };
  return absl::OkStatus();
}

absl::Status ModelHost::Serve(rpc::RpcServer& server) {
  server_ = &server;
  swapping_ = std::make_unique<rpc::Worker>();
  LIFT_RETURN_IF_ERROR(Govern(*first_));
  busy_ = false;  // from here on the first model may be replaced
  return absl::OkStatus();
}

void ModelHost::Close() {
  const std::lock_guard lock(mutex_);
  closed_ = true;
  if (governed_ != nullptr) governed_->StopGovernor();
  governed_ = nullptr;
}

// The current model's weights, and no other's, follow the schedule and the pressure.
absl::Status ModelHost::Govern(RunningModel& next) {
  const std::lock_guard lock(mutex_);
  if (closed_) return absl::OkStatus();
  if (governed_ != nullptr) governed_->StopGovernor();
  governed_ = &next;
  return next.StartGovernor([&services = shared_.services] { services.residency_changed(); });
}

std::vector<ModelLoad> ModelHost::loads() {
  std::vector<std::shared_ptr<RunningModel>> models;
  {
    const std::lock_guard lock(mutex_);
    for (const auto& m : models_) {
      if (auto model = m.lock()) models.push_back(std::move(model));
    }
  }
  const rpc::ServicesPtr current = slot_->current();
  std::vector<ModelLoad> loads;
  for (const auto& model : models) {
    const auto at = &model->services() == current.get() ? loads.begin() : loads.end();
    loads.insert(at, {{model, &model->info()}, model->engine().load()});
  }
  return loads;
}

void ModelHost::Swap(const std::string& file, Done done) {
  if (busy_.exchange(true)) {
    return done(WithReason(
        absl::FailedPreconditionError("another swap is under way, or the server still starts; try "
                                      "again when it has answered or is ready"),
        "SWAP_IN_PROGRESS"));
  }
  swapping_->Post([this, file, done = std::move(done)] {
    const absl::Status status = TrySwap(file);
    busy_ = false;
    done(status);
  });
}

// Both models are in memory until the old one's calls have ended.
absl::Status ModelHost::CheckMemory(const std::string& path) const {
  const uint64_t needed = BytesAt(path) + slot_->current()->model.state_bytes,
                 held = ProcessRssBytes(), capacity = MemoryCapacityBytes();
  if (held + needed <= capacity) return absl::OkStatus();
  return WithReason(absl::FailedPreconditionError(absl::StrCat(
                        "the model stays as it was: beside it, the new one needs up to ", needed,
                        " bytes, and ", capacity > held ? capacity - held : 0,
                        " are left; lower SetMemoryBudget first, or "
                        "restart with the new model")),
                    "MEMORY_TOO_SMALL", "file");
}

absl::Status ModelHost::TrySwap(const std::string& file) {
  ServerConfig config = config_;
  LIFT_ASSIGN_OR_RETURN(config.model, SwapPath(config_.model, file));
  LIFT_RETURN_IF_ERROR(CheckKind(config.model));
  LIFT_RETURN_IF_ERROR(CheckMemory(config.model));
  if (config.verify == "background") config.verify = "start";  // damage must not end the process
  if (config.cpu_tuning == "measure") config.cpu_tuning = "auto";  // measured, while all was quiet
  auto loaded = RunningModel::Load(shared_, config, (++generation_ << kSequenceBits) + 1);
  if (!loaded.ok()) return Unusable(loaded.status());
  RunningModel& next = **loaded;
  if (absl::Status status = next.WarmUp(); !status.ok()) return Unusable(status);
  if (!next.warning().empty()) shared_.report(next.warning());
  const rpc::ServicesPtr old = slot_->current();  // stays until the governor has moved
  if (!server_->Replace(Own(*std::move(loaded)))) return Draining();
  if (absl::Status status = Govern(next); !status.ok()) {
    shared_.report(std::string(status.message()));
  }
  shared_.report(absl::StrCat("model ", next.info().name, " (", config.model, ") took over from ",
                              old->model.name));
  return absl::OkStatus();
}

}  // namespace lift

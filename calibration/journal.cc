#include "calibration/journal.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <optional>
#include <span>

#include "absl/strings/str_cat.h"
#include "kernels/base/check.h"
#include "kernels/format/layout.h"

namespace lift {
namespace {

constexpr uint64_t kMostBytes = uint64_t{1} << 40;  // of a record

class Out {
 public:
  template <class T>
  void Value(T value) {
    bytes_.append(reinterpret_cast<const char*>(&value), sizeof value);
  }
  template <class T>
  void Array(const std::vector<T>& values) {
    Value(static_cast<uint64_t>(values.size()));
    bytes_.append(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T));
  }
  std::string Take() { return std::move(bytes_); }

 private:
  std::string bytes_;
};

class In {
 public:
  explicit In(std::string_view bytes) : left_(bytes) {}
  template <class T>
  T Value() {
    T value{};
    if (left_.size() < sizeof value) {
      good_ = false;
      return value;
    }
    std::memcpy(&value, left_.data(), sizeof value);
    left_.remove_prefix(sizeof value);
    return value;
  }
  template <class T>
  std::vector<T> Array() {
    const std::string_view bytes = ArrayBytes<T>();
    std::vector<T> values(bytes.size() / sizeof(T));
    if (!bytes.empty()) std::memcpy(values.data(), bytes.data(), bytes.size());
    return values;
  }
  template <class T>
  std::string_view ArrayBytes() {
    const uint64_t count = Value<uint64_t>();
    if (!good_ || count > left_.size() / sizeof(T)) {
      good_ = false;
      return {};
    }
    const std::string_view bytes = left_.substr(0, count * sizeof(T));
    left_.remove_prefix(bytes.size());
    return bytes;
  }
  bool good() const { return good_; }
  bool done() const { return good_ && left_.empty(); }

 private:
  std::string_view left_;
  bool good_ = true;
};

uint32_t Sum(std::string_view bytes) {
  return format::Crc32(std::as_bytes(std::span(bytes.data(), bytes.size())));
}

absl::Status Failed(const std::string& path, const char* what) {
  const int error = errno;
  const std::string message =
      absl::StrCat("cannot ", what, " the calibration's journal '", path, "': ", strerror(error));
  return error == ENOSPC ? absl::ResourceExhaustedError(message) : absl::InternalError(message);
}

}  // namespace

std::string Serialize(const LiftedTensorBits& tensor) {
  Out out;
  out.Array(std::vector<char>(tensor.name.begin(), tensor.name.end()));
  out.Value(tensor.rows);
  out.Value(tensor.cols);
  out.Value(tensor.padded);
  out.Value(static_cast<uint8_t>(tensor.rotation.enabled));
  out.Value(tensor.rotation.seed);
  out.Array(tensor.row_scale);
  out.Value(static_cast<uint64_t>(tensor.stages.size()));
  for (const LiftedStageBits& stage : tensor.stages) {
    out.Value(stage.gain);
    out.Array(stage.planes);
  }
  out.Value(tensor.energy);
  out.Array(tensor.error);
  return out.Take();
}

namespace {

// Everything before the stages; returns their number.
uint64_t ReadHead(In& in, LiftedTensorBits& tensor) {
  const std::vector<char> name = in.Array<char>();
  tensor.name.assign(name.begin(), name.end());
  tensor.rows = in.Value<int64_t>();
  tensor.cols = in.Value<int64_t>();
  tensor.padded = in.Value<int64_t>();
  tensor.rotation.enabled = in.Value<uint8_t>() != 0;
  tensor.rotation.seed = in.Value<uint64_t>();
  tensor.row_scale = in.Array<uint16_t>();
  return in.Value<uint64_t>();
}

}  // namespace

std::optional<LiftedTensorBits> Deserialize(std::string_view bytes) {
  In in(bytes);
  LiftedTensorBits tensor;
  const uint64_t stages = ReadHead(in, tensor);
  for (uint64_t j = 0; j < stages && in.good(); ++j) {
    LiftedStageBits stage;
    stage.gain = in.Value<float>();
    stage.planes = in.Array<uint8_t>();
    tensor.stages.push_back(std::move(stage));
  }
  tensor.energy = in.Value<double>();
  tensor.error = in.Array<double>();
  if (!in.done()) return std::nullopt;
  return tensor;
}

absl::StatusOr<std::unique_ptr<Journal>> Journal::Open(const std::string& path,
                                                       std::string_view fingerprint) {
  const int descriptor = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  std::FILE* file = descriptor < 0 ? nullptr : fdopen(descriptor, "r+b");
  if (file == nullptr) return Failed(path, "open");
  std::unique_ptr<Journal> journal(new Journal(path, file));
  LIFT_RETURN_IF_ERROR(journal->Load(fingerprint));
  return journal;
}

Journal::~Journal() {
  if (file_ != nullptr) std::fclose(file_);
}

absl::Status Journal::Load(std::string_view fingerprint) {
  std::error_code error;
  const uint64_t size = std::filesystem::file_size(path_, error);
  if (error) return Failed(path_, "read");
  uint64_t good = 0;
  bool first = true;
  std::string payload;
  while (good + 12 <= size) {
    uint64_t length = 0;
    uint32_t sum = 0;
    if (std::fread(&length, sizeof length, 1, file_) != 1 ||
        std::fread(&sum, sizeof sum, 1, file_) != 1 || length > size - good - 12 ||
        length > kMostBytes)
      break;
    payload.resize(length);
    if (std::fread(payload.data(), 1, length, file_) != length || Sum(payload) != sum) break;
    if (first) {
      if (payload != fingerprint) break;
      first = false;
    } else {
      std::optional<LiftedTensorBits> tensor = Deserialize(payload);
      if (!tensor) break;
      records_.insert_or_assign(tensor->name, Record{good + 12, length, sum});
    }
    good += 12 + length;
  }
  std::clearerr(file_);
  if (ftruncate(fileno(file_), static_cast<off_t>(good)) != 0 ||
      std::fseek(file_, 0, SEEK_END) != 0)
    return Failed(path_, "write");
  end_ = good;
  return first ? AppendRecord(fingerprint) : absl::OkStatus();
}

absl::StatusOr<LiftedTensorBits> Journal::Read(const std::string& name) const {
  const Record& record = records_.at(name);
  std::string payload(record.length, '\0');
  for (uint64_t done = 0; done < record.length;) {
    const ssize_t n = pread(fileno(file_), payload.data() + done, record.length - done,
                            static_cast<off_t>(record.offset + done));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return Failed(path_, "read");
    done += static_cast<uint64_t>(n);
  }
  std::optional<LiftedTensorBits> tensor;
  if (Sum(payload) == record.sum) tensor = Deserialize(payload);
  if (!tensor) {
    return absl::InternalError(
        absl::StrCat("the calibration's journal '", path_, "' was changed while it was in use"));
  }
  return *std::move(tensor);
}

std::vector<std::span<const uint8_t>> Journal::Planes(const std::string& name,
                                                      const MappedFile& map) const {
  const Record& record = records_.at(name);
  LIFT_CHECK(record.offset + record.length <= map.bytes().size());
  const auto bytes = map.bytes().subspan(record.offset, record.length);
  In in({reinterpret_cast<const char*>(bytes.data()), bytes.size()});
  LiftedTensorBits head;
  std::vector<std::span<const uint8_t>> planes(ReadHead(in, head));
  for (auto& stage : planes) {
    in.Value<float>();
    const std::string_view part = in.ArrayBytes<uint8_t>();
    stage = {reinterpret_cast<const uint8_t*>(part.data()), part.size()};
  }
  LIFT_CHECK(in.good());
  return planes;
}

absl::Status Journal::Append(const LiftedTensorBits& tensor) {
  const std::string payload = Serialize(tensor);
  const Record record{end_ + 12, payload.size(), Sum(payload)};
  LIFT_RETURN_IF_ERROR(AppendRecord(payload));
  records_.insert_or_assign(tensor.name, record);
  return absl::OkStatus();
}

absl::Status Journal::AppendRecord(std::string_view payload) {
  const uint64_t length = payload.size();
  const uint32_t sum = Sum(payload);
  if (std::fwrite(&length, sizeof length, 1, file_) != 1 ||
      std::fwrite(&sum, sizeof sum, 1, file_) != 1 ||
      std::fwrite(payload.data(), 1, length, file_) != length || std::fflush(file_) != 0 ||
      fdatasync(fileno(file_)) != 0)
    return Failed(path_, "write");
  end_ += 12 + length;
  return absl::OkStatus();
}

void Journal::Remove() {
  if (file_ != nullptr) std::fclose(file_);
  file_ = nullptr;
  unlink(path_.c_str());
}

}  // namespace lift

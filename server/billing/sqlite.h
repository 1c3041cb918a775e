// The little of SQLite the ledger needs, with statuses and destructors.
#pragma once

#include <sqlite3.h>

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "kernels/base/status.h"

namespace lift::sqlite {

inline absl::Status Error(sqlite3* db, const std::string& path) {
  return absl::UnavailableError(
      absl::StrCat("the ledger ", path, " cannot be used: ", sqlite3_errmsg(db)));
}

// A prepared statement. Bind, Step until false, Reset.
class Statement {
 public:
  Statement(sqlite3* db, const char* sql) : db_(db) {
    code_ = sqlite3_prepare_v2(db, sql, -1, &statement_, nullptr);
  }
  ~Statement() { sqlite3_finalize(statement_); }
  Statement(const Statement&) = delete;
  Statement& operator=(const Statement&) = delete;

  Statement& Bind(int64_t value) {
    sqlite3_bind_int64(statement_, ++bound_, value);
    return *this;
  }
  Statement& Bind(double value) {
    sqlite3_bind_double(statement_, ++bound_, value);
    return *this;
  }
  Statement& Bind(std::string_view value) {
    sqlite3_bind_text(statement_, ++bound_, value.data(), static_cast<int>(value.size()),
                      SQLITE_TRANSIENT);
    return *this;
  }
  // True: a row is there.
  absl::StatusOr<bool> Step() {
    if (code_ != SQLITE_OK && code_ != SQLITE_ROW && code_ != SQLITE_DONE) return Wrong();
    code_ = sqlite3_step(statement_);
    if (code_ != SQLITE_ROW && code_ != SQLITE_DONE) return Wrong();
    return code_ == SQLITE_ROW;
  }
  // Runs a statement without rows and makes it ready for the next values.
  absl::Status Run() {
    const absl::Status status = Step().status();
    Reset();
    return status;
  }
  void Reset() {
    if (statement_ != nullptr) sqlite3_reset(statement_);
    code_ = statement_ == nullptr ? code_ : SQLITE_OK;
    bound_ = 0;
  }
  int64_t Int(int column) const { return sqlite3_column_int64(statement_, column); }
  bool IsNull(int column) const { return sqlite3_column_type(statement_, column) == SQLITE_NULL; }
  double Double(int column) const { return sqlite3_column_double(statement_, column); }
  std::string Text(int column) const {
    const auto* text = reinterpret_cast<const char*>(sqlite3_column_text(statement_, column));
    return text == nullptr ? "" : std::string(text, sqlite3_column_bytes(statement_, column));
  }

 private:
  absl::Status Wrong() const {
    const char* path = sqlite3_db_filename(db_, "main");
    return Error(db_, path == nullptr ? "" : path);
  }
  sqlite3* db_;
  sqlite3_stmt* statement_ = nullptr;
  int code_ = SQLITE_OK, bound_ = 0;
};

inline absl::Status Execute(sqlite3* db, const char* sql) {
  if (sqlite3_exec(db, sql, nullptr, nullptr, nullptr) == SQLITE_OK) return absl::OkStatus();
  const char* path = sqlite3_db_filename(db, "main");
  return Error(db, path == nullptr ? "" : path);
}

}  // namespace lift::sqlite

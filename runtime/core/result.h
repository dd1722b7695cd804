// How failures travel. Set-up, config and loading throw SetupError (exit code 2). The steady state
// returns Result<T>; the executor turns the first failure into one RunError (exit code 3).
#pragma once

#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <variant>

#include "runtime/core/check.h"

namespace sluice {

enum class ErrorCode { invalid_input, not_found, io, no_space, corrupt, capacity, unsupported, interrupted };

// What happened and where (`message`), and what to do about it (`hint`, may be empty).
struct Error {
  ErrorCode code = ErrorCode::io;
  std::string message;
  std::string hint;

  std::string text() const { return hint.empty() ? message : message + "\n  fix: " + hint; }
};

class SluiceException : public std::runtime_error {
 public:
  explicit SluiceException(Error error) : std::runtime_error(error.text()), error_(std::move(error)) {}
  const Error& error() const { return error_; }

 private:
  Error error_;
};

// The user's input or set-up is wrong; nothing has been written. The process exits with 2.
class SetupError : public SluiceException {
 public:
  using SluiceException::SluiceException;
  SetupError(std::string message, std::string hint)
      : SluiceException(Error{ErrorCode::invalid_input, std::move(message), std::move(hint)}) {}
};

// A running job failed; its last checkpoint is intact. The process exits with 3.
class RunError : public SluiceException {
 public:
  using SluiceException::SluiceException;
};

template <class T>
class [[nodiscard]] Result {
 public:
  Result(T value) : state_(std::move(value)) {}
  Result(Error error) : state_(std::move(error)) {}

  bool ok() const { return std::holds_alternative<T>(state_); }
  explicit operator bool() const { return ok(); }
  const Error& error() const {
    SLUICE_CHECK(!ok(), "asked a success for its error");
    return std::get<Error>(state_);
  }
  T& value() & {
    SLUICE_CHECK(ok(), "asked a failure for its value: " + std::get<Error>(state_).message);
    return std::get<T>(state_);
  }
  const T& value() const& { return const_cast<Result*>(this)->value(); }
  T value() && { return std::move(static_cast<Result&>(*this).value()); }

 private:
  std::variant<T, Error> state_;
};

template <>
class [[nodiscard]] Result<void> {
 public:
  Result() = default;
  Result(Error error) : error_(std::move(error)) {}

  bool ok() const { return !error_.has_value(); }
  explicit operator bool() const { return ok(); }
  const Error& error() const {
    SLUICE_CHECK(!ok(), "asked a success for its error");
    return *error_;
  }

 private:
  std::optional<Error> error_;
};

}  // namespace sluice

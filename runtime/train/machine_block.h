// One block of keys of a machine file, and where it stands: every value is checked as it is asked for, and every
// message names file, line and fix.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/train/config_document.h"
#include "runtime/train/machine_units.h"

namespace sluice::train {

using Keys = std::vector<std::string_view>;

// All functions throw SetupError. Refers to the document.
class MachineBlock {
 public:
  // `name`: of the block, in messages; empty: the whole file.
  MachineBlock(std::string origin, std::string name, const DocumentValue& value, Position position, const Keys& keys);

  const DocumentField* find(std::string_view key) const;  // null: not there
  const DocumentField& need(std::string_view key, std::string_view example) const;
  const std::vector<DocumentField>& fields() const { return value_.fields; }

  double quantity(std::string_view key, const Quantity& kind) const;                       // above 0
  double quantity_or(std::string_view key, const Quantity& kind, double otherwise) const;  // from 0
  double number_or(std::string_view key, double otherwise) const;                          // from 0
  double share(const DocumentField& field) const;                                          // above 0, at most 1
  int count(std::string_view key, std::string_view example) const;                         // from 1
  int count_or(std::string_view key, int otherwise) const;
  std::string text_or(std::string_view key, const std::string& otherwise) const;
  bool flag_or(std::string_view key, bool otherwise) const;

  const std::vector<DocumentValue>& list(std::string_view key, std::string_view example) const;  // not empty
  MachineBlock block(const DocumentField& field, const Keys& keys) const;
  MachineBlock entry(std::string_view list, size_t index, const DocumentValue& value, const Keys& keys) const;

  [[noreturn]] void refuse(const DocumentField& field, std::string_view expected, std::string_view example) const;

 private:
  enum class Least { above_zero, zero };
  std::string place(Position at) const;
  std::string full(std::string_view key) const;
  void check_keys(const Keys& keys) const;
  double quantity_of(const DocumentField& field, const Quantity& kind, Least least) const;
  double factor_of(const DocumentField& field, const Quantity& kind, const std::string& unit) const;
  int count_of(const DocumentField& field, std::string_view example) const;

  std::string origin_, name_;
  const DocumentValue& value_;
  Position position_;
};

}  // namespace sluice::train

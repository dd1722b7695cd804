#include "tests/crash/volatile_disk.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <set>
#include <system_error>

namespace sluice::crash {

namespace fs = std::filesystem;

namespace {

[[noreturn]] void fail(const fs::path& path) { throw std::system_error(errno, std::generic_category(), path.string()); }

}  // namespace

VolatileDisk::VolatileDisk(const std::vector<fs::path>& roots, fs::path stash) : stash_(std::move(stash)) {
  fs::create_directory(stash_);
  for (const fs::path& root : roots) roots_.emplace_back(root, add_tree(root));
}

VolatileDisk::~VolatileDisk() {
  std::error_code ignored;
  fs::remove_all(stash_, ignored);
}

NodeId VolatileDisk::add(const fs::path& path, const struct stat& status) {
  const auto id = static_cast<NodeId>(nodes_.size());
  nodes_.push_back({S_ISDIR(status.st_mode), status.st_mode & 07777, {}, {}});
  by_key_[{status.st_dev, status.st_ino}] = id;
  if (!S_ISDIR(status.st_mode) && link(path.c_str(), stashed(id).c_str()) != 0) fail(path);
  return id;
}

NodeId VolatileDisk::add_tree(const fs::path& path) {
  struct stat status {};
  if (lstat(path.c_str(), &status) != 0) fail(path);
  if (const std::optional<NodeId> known = node_of(status)) return *known;
  const NodeId id = add(path, status);
  if (!is_folder(id)) return id;
  for (const fs::directory_entry& each : fs::directory_iterator(path)) {
    const NodeId inside = add_tree(each.path());
    nodes_[static_cast<size_t>(id)].safe[each.path().filename()] = inside;
  }
  return id;
}

std::optional<NodeId> VolatileDisk::node_of(const struct stat& status) const {
  const auto found = by_key_.find({status.st_dev, status.st_ino});
  return found == by_key_.end() ? std::nullopt : std::optional(found->second);
}

std::optional<NodeId> VolatileDisk::node_at(const fs::path& path) const {
  struct stat status {};
  return lstat(path.c_str(), &status) == 0 ? node_of(status) : std::nullopt;
}

std::optional<NodeId> VolatileDisk::folder_of(const fs::path& path) const {
  struct stat status {};
  return stat(path.parent_path().c_str(), &status) == 0 ? node_of(status) : std::nullopt;
}

int VolatileDisk::open_file(NodeId file) const {
  const int fd = open(stashed(file).c_str(), O_RDWR | O_CLOEXEC);
  if (fd < 0) fail(stashed(file));
  return fd;
}

VolatileDisk::Entry VolatileDisk::entry(const fs::path& path, std::optional<NodeId> node) const {
  const std::optional<NodeId> folder = folder_of(path);
  if (!folder) throw std::runtime_error(path.string() + ": its folder is none of those that are watched");
  return {*folder, path.filename(), node};
}

void VolatileDisk::change(std::vector<Entry> entries) { changes_.push_back({std::move(entries), Clock::now()}); }

void VolatileDisk::created(const fs::path& path) {
  struct stat status {};
  if (lstat(path.c_str(), &status) != 0) return;  // another thread has removed it meanwhile
  change({entry(path, add(path, status))});
}

void VolatileDisk::removed(const fs::path& path, NodeId node) {
  change({entry(path, std::nullopt)});
  // The number of a folder that is gone may be another's soon; a file's is kept by the stash.
  if (is_folder(node)) std::erase_if(by_key_, [&](const auto& each) { return each.second == node; });
}

void VolatileDisk::renamed(const fs::path& from, const fs::path& to, NodeId node) {
  change({entry(from, std::nullopt), entry(to, node)});
}

void VolatileDisk::exchanged(const fs::path& one, const fs::path& other, NodeId first, NodeId second) {
  change({entry(one, second), entry(other, first)});
}

void VolatileDisk::linked(const fs::path& to, NodeId node) { change({entry(to, node)}); }

// A rename becomes safe as a whole. A folder has one name, also where an earlier rename of it was lost.
void VolatileDisk::make_safe(Change& change) {
  change.safe = true;
  for (const Entry& each : change.entries) {
    if (each.node && is_folder(*each.node))
      for (Node& node : nodes_) std::erase_if(node.safe, [&](const auto& name) { return name.second == *each.node; });
    std::map<std::string, NodeId>& safe = nodes_[static_cast<size_t>(each.folder)].safe;
    if (each.node)
      safe[each.name] = *each.node;
    else
      safe.erase(each.name);
  }
}

void VolatileDisk::folder_synced(NodeId folder, size_t changes_before) {
  for (size_t i = 0; i < changes_.size() && first_change_ + i < changes_before; ++i) {
    const auto in_folder = [&](const Entry& each) { return each.folder == folder; };
    if (!changes_[i].safe && std::any_of(changes_[i].entries.begin(), changes_[i].entries.end(), in_folder))
      make_safe(changes_[i]);
  }
  forget_safe_changes();
}

void VolatileDisk::all_synced() {
  for (Node& node : nodes_) node.journal.synced(node.journal.moment());
  for (Change& each : changes_)
    if (!each.safe) make_safe(each);
  forget_safe_changes();
}

void VolatileDisk::write_back(Clock::duration age) {
  const Clock::time_point until = Clock::now() - age;
  for (Node& node : nodes_) node.journal.written_back(until);
  for (Change& each : changes_)
    if (!each.safe && each.time < until) make_safe(each);
  forget_safe_changes();
}

// Also gives back the space of files that have no name left, safe or not.
void VolatileDisk::forget_safe_changes() {
  size_t done = 0;
  while (done < changes_.size() && changes_[done].safe) ++done;
  if (done == 0) return;
  changes_.erase(changes_.begin(), changes_.begin() + static_cast<std::ptrdiff_t>(done));
  first_change_ += done;
  if (!changes_.empty()) return;
  std::set<NodeId> named;
  for (const Node& node : nodes_)
    for (const auto& [name, id] : node.safe) named.insert(id);
  for (auto each = by_key_.begin(); each != by_key_.end();) {
    struct stat status {};
    const bool nameless = !is_folder(each->second) && !named.contains(each->second) &&
                          stat(stashed(each->second).c_str(), &status) == 0 && status.st_nlink == 1;
    if (nameless) {
      unlink(stashed(each->second).c_str());
      journal(each->second) = {};
    }
    each = nameless ? by_key_.erase(each) : std::next(each);
  }
}

Losses VolatileDisk::lose(Fault fault, std::mt19937_64& random) {
  Losses losses;
  if (fault == Fault::killed) return losses;
  const double share = std::uniform_real_distribution<>(0, 1)(random);
  for (Change& each : changes_) {
    if (each.safe) continue;
    if (fault == Fault::dropped || std::bernoulli_distribution(share)(random))
      ++losses.entries;
    else
      make_safe(each);
  }
  for (const auto& [path, folder] : roots_) {
    for (const fs::directory_entry& each : fs::directory_iterator(path)) fs::remove_all(each.path());
    rebuild(path, folder, fault, random, losses);
  }
  return losses;
}

void VolatileDisk::rebuild(const fs::path& path, NodeId folder, Fault fault, std::mt19937_64& random, Losses& losses) {
  for (const auto& [name, id] : nodes_[static_cast<size_t>(folder)].safe) {
    const fs::path inside = path / name;
    const Node& node = nodes_[static_cast<size_t>(id)];
    if (node.is_folder) {
      if (mkdir(inside.c_str(), node.mode) != 0) fail(inside);
      rebuild(inside, id, fault, random, losses);
      if (chmod(inside.c_str(), node.mode) != 0) fail(inside);
      continue;
    }
    if (link(stashed(id).c_str(), inside.c_str()) != 0) fail(inside);
    if (node.journal.empty()) continue;
    const int fd = open_file(id);
    losses.writes += journal(id).lose(fd, fault, random);
    close(fd);
  }
}

}  // namespace sluice::crash

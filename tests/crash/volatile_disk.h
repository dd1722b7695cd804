// Folders on a drive with a volatile write cache: what POSIX promises after a loss of power, and no more. Bytes are
// safe once their file was synced, names once their folder was. The calls happen on the real file system, at their
// time; this class remembers what they changed, and at the end takes from it what would not have reached the drive.
#pragma once

#include <sys/stat.h>

#include <filesystem>
#include <map>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "tests/crash/file_journal.h"

namespace sluice::crash {

using NodeId = int;  // a file or folder, whatever its names

struct Losses {
  int64_t writes = 0;   // of which something is lost
  int64_t entries = 0;  // changes of folders
};

// Not thread-safe. Throws std::system_error when the real file system refuses.
class VolatileDisk {
 public:
  // Everything below `roots` is safe at first. Makes `stash`, a folder on the same file system that holds a second link
  // to every file, and removes it in the end.
  VolatileDisk(const std::vector<std::filesystem::path>& roots, std::filesystem::path stash);
  ~VolatileDisk();
  VolatileDisk(const VolatileDisk&) = delete;
  VolatileDisk& operator=(const VolatileDisk&) = delete;

  // Nothing: it is not ours. Paths are followed as `stat` does, the last part as `lstat` does.
  std::optional<NodeId> node_of(const struct stat& status) const;
  std::optional<NodeId> node_at(const std::filesystem::path& path) const;
  std::optional<NodeId> folder_of(const std::filesystem::path& path) const;
  bool is_folder(NodeId node) const { return nodes_[static_cast<size_t>(node)].is_folder; }
  FileJournal& journal(NodeId file) { return nodes_[static_cast<size_t>(file)].journal; }
  int open_file(NodeId file) const;  // to read and write; to be closed

  // After calls that succeeded. Each is in a folder of ours; a name that is none of ours is passed over.
  void created(const std::filesystem::path& path);  // a file or a folder
  void removed(const std::filesystem::path& path, NodeId node);
  void renamed(const std::filesystem::path& from, const std::filesystem::path& to, NodeId node);
  void exchanged(const std::filesystem::path& one, const std::filesystem::path& other, NodeId first, NodeId second);
  void linked(const std::filesystem::path& to, NodeId node);

  size_t changes() const { return first_change_ + changes_.size(); }
  void folder_synced(NodeId folder, size_t changes_before);
  void all_synced();
  // The kernel writes back by itself what is older.
  void write_back(Clock::duration age);

  // When no process is left that writes.
  Losses lose(Fault fault, std::mt19937_64& random);

 private:
  struct Node {
    bool is_folder = false;
    mode_t mode = 0;
    std::map<std::string, NodeId> safe;  // of a folder
    FileJournal journal;                 // of a file
  };
  struct Entry {
    NodeId folder;
    std::string name;
    std::optional<NodeId> node;  // none: the name goes
  };
  struct Change {
    std::vector<Entry> entries;
    Clock::time_point time;
    bool safe = false;
  };
  using Key = std::pair<dev_t, ino_t>;

  NodeId add(const std::filesystem::path& path, const struct stat& status);
  NodeId add_tree(const std::filesystem::path& path);
  Entry entry(const std::filesystem::path& path, std::optional<NodeId> node) const;
  void change(std::vector<Entry> entries);
  void make_safe(Change& change);
  void forget_safe_changes();
  std::filesystem::path stashed(NodeId file) const { return stash_ / std::to_string(file); }
  void rebuild(const std::filesystem::path& path, NodeId folder, Fault fault, std::mt19937_64& random, Losses& losses);

  std::filesystem::path stash_;
  std::vector<std::pair<std::filesystem::path, NodeId>> roots_;
  std::vector<Node> nodes_;
  std::map<Key, NodeId> by_key_;
  std::vector<Change> changes_;
  size_t first_change_ = 0;
};

}  // namespace sluice::crash

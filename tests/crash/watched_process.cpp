#include "tests/crash/watched_process.h"

#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdio>
#include <system_error>

namespace sluice::crash {
namespace {

#if defined(__x86_64__)
constexpr uint32_t kArchitecture = AUDIT_ARCH_X86_64;
#elif defined(__aarch64__)
constexpr uint32_t kArchitecture = AUDIT_ARCH_AARCH64;
#endif

// Every call by which a file or folder may change, or become safe.
constexpr long kWatched[] = {
    SYS_write,    SYS_writev,    SYS_pwrite64,        SYS_pwritev,   SYS_pwritev2, SYS_sendfile,  SYS_splice,
    SYS_truncate, SYS_ftruncate, SYS_copy_file_range, SYS_fallocate, SYS_fsync,    SYS_fdatasync, SYS_syncfs,
    SYS_sync,     SYS_renameat2, SYS_linkat,          SYS_symlinkat, SYS_unlinkat, SYS_mkdirat,
#ifdef SYS_rename
    SYS_rename,   SYS_link,      SYS_symlink,         SYS_unlink,    SYS_rmdir,    SYS_mkdir,     SYS_creat,
#endif
#ifdef SYS_renameat
    SYS_renameat,
#endif
};
// Watched only with one of these flags in an argument.
struct Flagged {
  long number;
  uint32_t argument;
  uint32_t flags;
};
constexpr Flagged kWatchedIf[] = {
    {SYS_openat, 2, O_CREAT | O_TRUNC},
#ifdef SYS_open
    {SYS_open, 1, O_CREAT | O_TRUNC},
#endif
    {SYS_mmap, 2, PROT_WRITE},
};

[[noreturn]] void fail(const char* what) { throw std::system_error(errno, std::generic_category(), what); }

std::vector<sock_filter> filter() {
  const auto argument = [](uint32_t i) {
    return static_cast<uint32_t>(offsetof(seccomp_data, args) + i * sizeof(uint64_t));
  };
  std::vector<sock_filter> program = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, arch)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, kArchitecture, 1, 0),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_io_uring_setup, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_openat2, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOSYS),
  };
  for (const long number : kWatched) {
    program.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, static_cast<uint32_t>(number), 0, 1));
    program.push_back(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRACE));
  }
  for (const Flagged& each : kWatchedIf) {
    program.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, static_cast<uint32_t>(each.number), 0, 4));
    program.push_back(BPF_STMT(BPF_LD | BPF_W | BPF_ABS, argument(each.argument)));
    program.push_back(BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, each.flags, 0, 1));
    program.push_back(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRACE));
    program.push_back(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW));
  }
  program.push_back(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW));
  return program;
}

// In the child: waits until it is watched, then becomes the program.
[[noreturn]] void become(const std::vector<std::string>& command, int ready) {
  char go;
  if (read(ready, &go, 1) != 1) _exit(127);
  std::vector<sock_filter> instructions = filter();
  const sock_fprog program = {static_cast<unsigned short>(instructions.size()), instructions.data()};
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0) {
    std::perror("error: seccomp");
    _exit(127);
  }
  std::vector<char*> arguments;
  for (const std::string& each : command) arguments.push_back(const_cast<char*>(each.c_str()));
  arguments.push_back(nullptr);
  execvp(arguments[0], arguments.data());
  std::perror(("error: " + command[0]).c_str());
  _exit(127);
}

}  // namespace

void SystemCall::read(uint64_t address, void* into, size_t bytes) const {
  const iovec ours = {into, bytes}, theirs = {reinterpret_cast<void*>(address), bytes};
  if (process_vm_readv(thread, &ours, 1, &theirs, 1, 0) != static_cast<ssize_t>(bytes)) fail("process_vm_readv");
}

std::string SystemCall::text(size_t argument) const {
  // Not beyond a page: what follows may not be readable.
  constexpr uint64_t kPageBytes = 4096;
  std::string all;
  for (uint64_t at = arguments[argument];;) {
    std::string piece(kPageBytes - at % kPageBytes, '\0');
    read(at, piece.data(), piece.size());
    const size_t end = piece.find('\0');
    all += piece.substr(0, end);
    if (end != std::string::npos) return all;
    at += piece.size();
  }
}

WatchedProcess::WatchedProcess(const std::vector<std::string>& command) {
  std::array<int, 2> ready{};
  if (pipe2(ready.data(), O_CLOEXEC) != 0) fail("pipe2");
  program_ = fork();
  if (program_ < 0) fail("fork");
  if (program_ == 0) become(command, ready[0]);
  constexpr long kOptions = PTRACE_O_EXITKILL | PTRACE_O_TRACESECCOMP | PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACECLONE |
                            PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK;
  if (ptrace(PTRACE_SEIZE, program_, 0, kOptions) != 0) fail("ptrace");
  threads_[program_] = std::nullopt;
  if (write(ready[1], "", 1) != 1) fail("write");
  close(ready[0]);
  close(ready[1]);
}

std::optional<int> WatchedProcess::run(const Observer& observer) {
  std::optional<int> program_status;
  for (;;) {
    int status = 0;
    const pid_t thread = waitpid(-1, &status, __WALL);
    if (thread < 0 && errno == EINTR) {
      end_all();
    } else if (thread < 0 && errno == ECHILD) {
      return ended_by_us_ ? std::nullopt : program_status;
    } else if (thread < 0) {
      fail("waitpid");
    } else if (WIFSTOPPED(status)) {
      stopped(thread, status, observer);
    } else {
      threads_.erase(thread);
      if (thread == program_) program_status = status;
    }
  }
}

void WatchedProcess::stopped(pid_t thread, int status, const Observer& observer) {
  const int signal = WSTOPSIG(status), event = status >> 16;
  std::optional<SystemCall>& call = threads_[thread];
  // Whoever was sent SIGKILL runs no further, and refuses every request.
  if (ended_by_us_) {
    kill(thread, SIGKILL);
    return;
  }
  __ptrace_syscall_info info{};
  if (event == PTRACE_EVENT_SECCOMP) {
    if (ptrace(PTRACE_GET_SYSCALL_INFO, thread, sizeof info, &info) <= 0) return;
    SystemCall begun{thread, static_cast<int64_t>(info.seccomp.nr), {}};
    std::copy(std::begin(info.seccomp.args), std::end(info.seccomp.args), begun.arguments.begin());
    if (!observer.starts(begun)) return end_all();
    call = begun;
    ptrace(PTRACE_SYSCALL, thread, 0, 0);
  } else if (signal == (SIGTRAP | 0x80)) {
    if (ptrace(PTRACE_GET_SYSCALL_INFO, thread, sizeof info, &info) <= 0) return;
    if (call && info.op == PTRACE_SYSCALL_INFO_EXIT) {
      observer.ends(*call, info.exit.rval);
      call.reset();
    }
    ptrace(call ? PTRACE_SYSCALL : PTRACE_CONT, thread, 0, 0);
  } else if (event == PTRACE_EVENT_STOP && signal != SIGTRAP) {
    ptrace(PTRACE_LISTEN, thread, 0, 0);
  } else {
    // In a call that was interrupted the end of it is still to come.
    ptrace(call ? PTRACE_SYSCALL : PTRACE_CONT, thread, 0, event == 0 ? signal : 0);
  }
}

void WatchedProcess::end_all() {
  ended_by_us_ = true;
  for (const auto& [thread, call] : threads_) kill(thread, SIGKILL);
}

}  // namespace sluice::crash

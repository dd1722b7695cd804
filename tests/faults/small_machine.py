"""What a small machine or a container takes from a process, from inside: for `preexec_fn`."""

import ctypes
import errno
import os
import resource
import struct

PR_SET_SECCOMP, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS, PR_SET_THP_DISABLE = 22, 24, 38, 41
SECCOMP_MODE_FILTER, CAP_DAC_OVERRIDE, CAP_IPC_LOCK = 2, 1, 14
IO_URING_SETUP = 425


def prctl(*arguments):
    if ctypes.CDLL(None, use_errno=True).prctl(*arguments) != 0:
        raise OSError(ctypes.get_errno(), "prctl")


def refuse_io_uring():
    """What a container's seccomp profile does: that one call fails with EPERM."""
    load, jump_if_equal, answer = 0x20, 0x15, 0x06
    allow, refuse = 0x7FFF0000, 0x00050000 | errno.EPERM
    steps = ((load, 0, 0, 0), (jump_if_equal, 0, 1, IO_URING_SETUP), (answer, 0, 0, refuse), (answer, 0, 0, allow))
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
    program = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(steps), ctypes.addressof(code)))
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, program, 0, 0)


def limit(which, soft, hard=None):
    resource.setrlimit(which, (soft, hard or soft))


def without(capability):
    """What root is then held to as an ordinary user is."""
    if os.geteuid() == 0:
        prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)


def little_locked_memory():
    limit(resource.RLIMIT_MEMLOCK, 64 << 10)
    without(CAP_IPC_LOCK)


def no_huge_pages():
    prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0)

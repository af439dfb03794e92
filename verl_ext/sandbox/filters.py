"""Lists of system calls to refuse, by what a process could do with them; put together with `|` for `seccomp.install`."""

from __future__ import annotations

import errno
import termios

from verl_ext.sandbox.seccomp import Condition, Rule

_CLONE_THREAD = 0x00010000
_WRITE_FLAGS = 0o3 | 0o100 | 0o1000 | 0o2000  # O_WRONLY and O_RDWR, O_CREAT, O_TRUNC, O_APPEND
_F_SETOWN, _F_SETSIG, _F_SETOWN_EX = 8, 10, 15
_FIOSETOWN, _SIOCSPGRP, _TIOCLINUX = 0x8901, 0x8902, 0x541C
_PR_SET_PDEATHSIG = 1


def _refuse(names: str, error: int = errno.EPERM) -> dict[str, Rule]:
    return dict.fromkeys(names.split(), error)


def _null(argument: int) -> tuple[Condition, Condition]:
    return Condition(argument, "==", 0), Condition(argument, "==", 0, "high")


NO_PROCESSES: dict[str, Rule] = {
    **_refuse("fork vfork execve execveat"),
    "clone": (Condition(0, "has", _CLONE_THREAD),),
    **_refuse("clone3", errno.ENOSYS),  # its flags are in memory, where no filter sees them; libraries go on to clone
}
"""Threads are allowed."""

NO_NETWORK: dict[str, Rule] = _refuse(
    "socket socketpair connect bind listen accept accept4 sendto sendmsg sendmmsg recvfrom recvmsg recvmmsg shutdown "
    "getsockname getpeername getsockopt setsockopt "
    "io_uring_setup io_uring_enter io_uring_register"  # would do all of this, and open files, past the filter
)
"""A socket that is open already can still be read and written as a file."""

NO_OTHER_PROCESSES: dict[str, Rule] = {
    **_refuse("tkill rt_sigqueueinfo rt_tgsigqueueinfo pidfd_open pidfd_send_signal pidfd_getfd"),
    **_refuse("ptrace process_vm_readv process_vm_writev process_madvise process_mrelease kcmp"),
    **_refuse("migrate_pages move_pages setpriority sched_setscheduler sched_setparam sched_setattr ioprio_set"),
    **_refuse("setpgid setsid shmget shmat shmctl shmdt semget semop semtimedop semctl msgget msgsnd msgrcv msgctl"),
    **_refuse("mq_open mq_unlink mq_timedsend mq_timedreceive mq_notify mq_getsetattr"),
    # The kernel sends signals of an open file to any process that the file is given to.
    "fcntl": tuple(Condition(1, "!=", command) for command in (_F_SETOWN, _F_SETSIG, _F_SETOWN_EX)),
    "ioctl": tuple(
        Condition(1, "!=", request)
        for request in (_FIOSETOWN, _SIOCSPGRP, termios.TIOCSTI, _TIOCLINUX)  # the latter two type into a terminal
    ),
    "prctl": (Condition(0, "!=", _PR_SET_PDEATHSIG),),
}
"""Neither look into, nor signal, nor speak with another process; see `signals_to` for `kill`."""

LIMITS_STAY: dict[str, Rule] = {**_refuse("setrlimit"), "prlimit64": _null(2)}
"""Resource limits can be read, not set."""

NO_ADMINISTRATION: dict[str, Rule] = {
    **_refuse("mount umount2 pivot_root chroot move_mount open_tree fsopen fsconfig fsmount fspick mount_setattr"),
    **_refuse("setns unshare bpf perf_event_open keyctl add_key request_key name_to_handle_at open_by_handle_at"),
    **_refuse("fanotify_init fanotify_mark init_module finit_module delete_module kexec_load kexec_file_load reboot"),
    **_refuse("swapon swapoff acct quotactl quotactl_fd sethostname setdomainname settimeofday clock_settime"),
    **_refuse("clock_adjtime adjtimex syslog vhangup iopl ioperm modify_ldt lookup_dcookie nfsservctl uselib"),
    **_refuse("sysfs _sysctl personality userfaultfd memfd_create memfd_secret"),
}
"""What belongs to the machine's administrator, which a process in a container often is, or widens what can be attacked."""

FILES_STAY: dict[str, Rule] = {
    "open": (Condition(1, "lacks", _WRITE_FLAGS),),
    "openat": (Condition(2, "lacks", _WRITE_FLAGS),),
    **_refuse("openat2", errno.ENOSYS),  # its flags are in memory; libraries go on to openat
    **_refuse("creat truncate ftruncate fallocate unlink unlinkat rename renameat renameat2 mkdir mkdirat rmdir"),
    **_refuse("symlink symlinkat link linkat mknod mknodat chmod fchmod fchmodat fchmodat2 chown fchown lchown"),
    **_refuse("fchownat utime utimes futimesat utimensat setxattr lsetxattr fsetxattr removexattr lremovexattr"),
    **_refuse("fremovexattr setxattrat removexattrat"),
}
"""Files can be read; none is written, made, removed or changed. Descriptors that are open already keep their rights."""

CONFINED = NO_PROCESSES | NO_NETWORK | NO_OTHER_PROCESSES | LIMITS_STAY | NO_ADMINISTRATION | FILES_STAY
"""All of them: a process that computes and answers through the descriptors that it was given."""


def signals_to(process_id: int) -> dict[str, Rule]:
    """Signals reach this one process only, and no group: `raise` and `abort` work in it."""
    only = (Condition(0, "==", process_id),)
    return {"kill": only, "tgkill": only}

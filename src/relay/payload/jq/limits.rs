//! The limits of a worker process. It sets them itself before it reads anything, because only `unsafe` code could set them between
//! fork and exec.

use std::fs;
use std::io;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::time::{ClockId, clock_gettime};

/// The memory that the worker may use in addition to what is mapped at its start: ten times the largest message, and the stack.
const MEMORY_BYTES: u64 = 256 * 1024 * 1024;

/// The size of the memory that a process without `/proc` is assumed to have mapped at its start.
const UNKNOWN_MAPPED_BYTES: u64 = 256 * 1024 * 1024;

/// The number of open files: the three standard streams, and the time zone while `localtime` reads it.
const OPEN_FILES: u64 = 8;

/// The processor time for one message. The service kills the worker earlier.
const CPU_SECONDS: u64 = 10;

/// The nice value of the worker, as of the threads that send messages (`man 7 sched`).
const NICE: i32 = 10;

/// Limits this process. The parent-death signal ends it with the service, also after `kill -9`.
pub(super) fn limit_process() -> io::Result<()> {
    // The signal is sent when the thread that started the worker ends. That is a thread of a runtime, which lives as long as the
    // runtime.
    #[cfg(target_os = "linux")]
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
    lower_priority();
    // If the machine runs out of memory, this process is the one to end. A failure only costs this preference.
    let _same_score = fs::write("/proc/self/oom_score_adj", "1000");
    lower(Resource::Core, 0)?;
    lower(Resource::Nofile, OPEN_FILES)?;
    lower(Resource::As, mapped_bytes().saturating_add(MEMORY_BYTES))?;
    // Process lists show this name. Without it, they show `exe` after /proc/self/exe.
    let _only_cosmetic = fs::write("/proc/self/comm", "jq-worker");
    renew_cpu_limit()
}

/// Allows the processor time for one more message. The limit counts for the whole life of the process.
pub(super) fn renew_cpu_limit() -> io::Result<()> {
    let used = clock_gettime(ClockId::ProcessCPUTime).tv_sec;
    let limit = u64::try_from(used).unwrap_or(0) + CPU_SECONDS;
    let maximum = getrlimit(Resource::Cpu).maximum;
    Ok(setrlimit(
        Resource::Cpu,
        Rlimit {
            current: Some(maximum.map_or(limit, |maximum| maximum.min(limit))),
            maximum,
        },
    )?)
}

/// Lowers both limits of a resource, if they are not lower already.
fn lower(resource: Resource, limit: u64) -> io::Result<()> {
    let maximum = getrlimit(resource).maximum;
    let limit = Some(maximum.map_or(limit, |maximum| maximum.min(limit)));
    Ok(setrlimit(
        resource,
        Rlimit {
            current: limit,
            maximum: limit,
        },
    )?)
}

fn lower_priority() {
    // The process may have inherited the priority of a low-priority thread. A failure only costs priority.
    let _normal_priority = rustix::process::getpriority_process(None)
        .and_then(|nice| rustix::process::setpriority_process(None, nice.max(NICE)));
}

/// Returns the size of the mapped memory, from `/proc`.
fn mapped_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let size = status.lines().find_map(|line| {
        let size = line.strip_prefix("VmSize:")?.trim().strip_suffix(" kB")?;
        size.parse::<u64>().ok()
    });
    size.map_or(UNKNOWN_MAPPED_BYTES, |kibibytes| kibibytes * 1024)
}

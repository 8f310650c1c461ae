//! The scheduling of the probes' thread: ahead of everything else where that is allowed.

use std::io;

/// The lowest of the real-time priorities: ahead of all ordinary threads, behind whatever else is real-time.
const REAL_TIME: libc::c_int = 1;
const NICEST: libc::c_int = -20;

/// How the calling thread is scheduled from now on.
#[derive(Debug)]
pub enum Class {
    RealTime,
    Nice,
    /// Neither was allowed; the error of the second.
    Ordinary(io::Error),
}

/// Puts the calling thread ahead of others, as far as this process may. What it starts does not inherit that.
#[expect(unsafe_code, reason = "no crate offers these calls for one thread")]
pub fn raise() -> Class {
    // SAFETY: plain integers; 0 is the calling thread, and the parameter lives through the call.
    let real_time = unsafe {
        let mut param: libc::sched_param = std::mem::zeroed();
        param.sched_priority = REAL_TIME;
        libc::sched_setscheduler(0, libc::SCHED_RR | libc::SCHED_RESET_ON_FORK, &raw const param)
    };
    if real_time == 0 {
        return Class::RealTime;
    }
    // SAFETY: plain integers; on Linux the nice value is one of the thread, and 0 is the calling one.
    let nice = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICEST) };
    if nice == 0 {
        Class::Nice
    } else {
        Class::Ordinary(io::Error::last_os_error())
    }
}

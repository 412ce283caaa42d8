//! How much memory there is, and how much a call takes: what Linux says under `/proc`. Elsewhere nothing is known, and a problem
//! that is too large fails when it is allocated.

use std::fs;

/// Whether so many bytes are free.
pub fn check_host(bytes: usize) -> Result<(), String> {
    check(bytes, available(), "memory")
}

/// The same of memory of which so much is free, if that is known.
pub fn check(bytes: usize, free: Option<usize>, what: &str) -> Result<(), String> {
    match free {
        Some(free) if free < bytes => {
            let gib = |bytes: usize| bytes as f64 / f64::from(1 << 30);
            Err(format!("needs {:.1} GiB of {what}, and {:.1} GiB are free", gib(bytes), gib(free)))
        }
        _ => Ok(()),
    }
}

fn available() -> Option<usize> {
    let machine = kibibytes(&fs::read_to_string("/proc/meminfo").ok()?, "MemAvailable:")?;
    // A container may have less than the machine.
    let number = |file: &str| fs::read_to_string(format!("/sys/fs/cgroup/{file}")).ok()?.trim().parse::<usize>().ok();
    let container = number("memory.max").zip(number("memory.current")).map(|(max, now)| max.saturating_sub(now));
    Some(container.map_or(machine, |container| container.min(machine)))
}

/// What a call takes at most beside what is there already.
pub fn of_a_call(mut call: impl FnMut() -> Result<(), String>) -> Result<usize, String> {
    call()?; // threads, and pages of the buffers
    let before = reset_peak()?;
    call()?;
    Ok(peak()?.saturating_sub(before))
}

/// Forgets the highest resident size so far, and returns the present one.
fn reset_peak() -> Result<usize, String> {
    let failed = |error| format!("the peak of memory cannot be reset (/proc/self/clear_refs: {error})");
    fs::write("/proc/self/clear_refs", "5").map_err(failed)?;
    status("VmRSS:")
}

/// The highest resident size since.
fn peak() -> Result<usize, String> {
    status("VmHWM:")
}

fn status(name: &str) -> Result<usize, String> {
    let status = fs::read_to_string("/proc/self/status").map_err(|error| format!("/proc/self/status: {error}"))?;
    kibibytes(&status, name).ok_or_else(|| format!("/proc/self/status has no {name}"))
}

/// Of a line such as `VmHWM:  1234 kB`, in bytes.
fn kibibytes(text: &str, name: &str) -> Option<usize> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<usize>().ok()? << 10)
}

//! Processor time and memory of a program and all its child processes, read from `/proc`.

use std::fs;
use std::time::Duration;

/// A program and its children, identified by the first process.
#[derive(Clone, Copy, Debug)]
pub struct Tree(pub u32);

/// Clock ticks per second, which is 100 on every supported Linux.
const TICKS: u64 = 100;

impl Tree {
    /// The IDs of its processes.
    fn pids(self) -> Vec<u32> {
        let mut parents = Vec::new();
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            if let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok())
                && let Some(parent) = field(pid, 1)
            {
                parents.push((pid, parent));
            }
        }
        let mut pids = vec![self.0];
        let mut at = 0;
        while at < pids.len() {
            let parent = u64::from(pids[at]);
            pids.extend(parents.iter().filter(|(_, own)| *own == parent).map(|(pid, _)| pid));
            at += 1;
        }
        pids
    }

    /// Processor time used so far in user and system mode.
    pub fn cpu(self) -> Duration {
        let ticks = |pid| Some(field(pid, 11)? + field(pid, 12)?);
        let sum: u64 = self.pids().into_iter().filter_map(ticks).sum();
        Duration::from_millis(sum * 1000 / TICKS)
    }

    /// Processor time of the first process alone.
    pub fn own_cpu(self) -> Duration {
        let ticks = field(self.0, 11).unwrap_or(0) + field(self.0, 12).unwrap_or(0);
        Duration::from_millis(ticks * 1000 / TICKS)
    }

    /// Bytes resident now; shared pages count in each process.
    pub fn resident(self) -> u64 {
        self.pids().into_iter().map(|pid| status(pid, "VmRSS:")).sum()
    }

    /// The peak of resident bytes since [`Tree::forget_peak`], summed over the processes.
    pub fn peak(self) -> u64 {
        self.pids().into_iter().map(|pid| status(pid, "VmHWM:")).sum()
    }

    /// Starts measuring a new peak.
    pub fn forget_peak(self) {
        for pid in self.pids() {
            // Where this is not permitted, the peak covers the whole life of the process.
            let _ = fs::write(format!("/proc/{pid}/clear_refs"), "5");
        }
    }
}

/// Processor time that everything on this machine has used, including other guests of the same host
/// (`steal`).
pub fn machine_cpu() -> Duration {
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
    let line = text.lines().next().unwrap_or_default();
    let numbers: Vec<u64> =
        line.split_ascii_whitespace().skip(1).map_while(|word| word.parse().ok()).collect();
    // user, nice, system, idle, iowait, irq, softirq, steal; these include all other fields.
    let busy = [0, 1, 2, 5, 6, 7].iter().filter_map(|index| numbers.get(*index)).sum::<u64>();
    Duration::from_millis(busy * 1000 / TICKS)
}

/// A number from `/proc/PID/stat`, counted from the field after the name.
fn field(pid: u32, index: usize) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    text.rsplit_once(") ")?.1.split(' ').nth(index)?.parse().ok()
}

/// A value from `/proc/PID/status` in bytes; 0 if it is absent.
fn status(pid: u32, name: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|line| line.split_ascii_whitespace().next()?.parse::<u64>().ok());
    number.unwrap_or(0) * 1024
}

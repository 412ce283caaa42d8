//! Records of launches, with every byte that went in and came out, for the sanitizer builds to repeat.

use std::cell::RefCell;
use std::path::PathBuf;

use super::host_exec::out;
use super::params::LaunchArgs;
use super::plan::{Plan, WORKSPACE_BYTES};

/// The bytes of the buffers whose addresses are in the arguments.
#[derive(Clone, Copy, Default)]
pub struct Buffers {
    pub input: usize,
    pub target: usize,
    pub third: usize,
    pub class_weight: usize,
    pub weight: usize,
    pub per_loss: usize,
    pub scratch: usize,
    pub terms: usize,
    /// Rows of a report.
    pub reported: usize,
}

/// A buffer: which argument it is, where, how long.
#[derive(Clone, Copy)]
struct Buffer {
    argument: usize,
    address: u64,
    len: usize,
}

pub struct Record {
    bytes: Vec<u8>,
    buffers: Vec<Buffer>,
    wanted: bool,
}

/// The largest launch that is recorded, and how much is recorded in all.
const MOST_OF_ONE: usize = 64 << 10;
const MOST: usize = 64 << 20;

thread_local! {
    /// The records of this thread's launches, if they are wanted.
    static RECORDS: RefCell<Option<Vec<u8>>> = const { RefCell::new(None) };
}

/// Where the records are.
pub fn path() -> PathBuf {
    out().join("host_exec_launches")
}

/// Records what `launches` launches.
pub fn record(launches: impl FnOnce()) -> PathBuf {
    RECORDS.set(Some(Vec::new()));
    launches();
    std::fs::write(path(), RECORDS.take().unwrap()).unwrap();
    path()
}

impl Record {
    pub fn before(name: &str, plan: &Plan, args: &LaunchArgs, params: &[u8], sizes: &Buffers) -> Record {
        let a = args;
        let lens = [
            (a.input, sizes.input),
            (a.target, sizes.target),
            (a.class_weight, sizes.class_weight),
            (a.weight, sizes.weight),
            (a.grad_outputs, sizes.per_loss),
            (a.grad_input, sizes.input),
            // Dense targets have the input's size, or else it is the other side of a GAN.
            (a.grad_target, sizes.target),
            (a.values, sizes.per_loss),
            (a.value, 4),
            (a.grad_scale, 4),
            (a.divisor, 4),
            (a.workspace, WORKSPACE_BYTES),
            (a.scratch, sizes.scratch),
            (a.terms, sizes.terms),
            (a.third, sizes.third),
            (a.grad_third, sizes.third),
            (a.log_prob, 4 * sizes.reported),
            (a.entropy, 4 * sizes.reported),
            (a.lse, 4 * sizes.reported),
            (a.hit, 4 * sizes.reported),
            (a.argmax, 8 * sizes.reported),
        ];
        let all = lens.into_iter().enumerate().map(|(argument, (address, len))| Buffer { argument, address, len });
        let buffers: Vec<Buffer> = all.filter(|b| b.address != 0).collect();
        let size: usize = buffers.iter().map(|b| b.len).sum();
        let wanted = size <= MOST_OF_ONE + WORKSPACE_BYTES
            && RECORDS.with_borrow(|records| records.as_ref().is_some_and(|r| r.len() < MOST));
        let mut record = Record { bytes: Vec::new(), buffers, wanted };
        if wanted {
            record.blob(name.as_bytes());
            for n in [plan.grid, plan.block.0, plan.block.1, plan.cluster, plan.shared] {
                record.number(n.into());
            }
            // SAFETY: the struct has no padding.
            let bytes = unsafe { std::slice::from_raw_parts((&raw const *args).cast(), size_of::<LaunchArgs>()) };
            record.blob(bytes);
            record.blob(params);
            record.number(record.buffers.len() as u64);
            record.contents();
        }
        record
    }

    /// What the launch has left.
    pub fn finish(mut self) {
        if self.wanted {
            self.contents();
            RECORDS.with_borrow_mut(|records| records.as_mut().unwrap().extend(&self.bytes));
        }
    }

    fn number(&mut self, n: u64) {
        self.bytes.extend(n.to_le_bytes());
    }

    fn blob(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.bytes.extend(bytes);
    }

    fn contents(&mut self) {
        for buffer in self.buffers.clone() {
            self.number(buffer.argument as u64);
            self.number(buffer.address);
            // SAFETY: the launch was given this buffer, and is not running.
            let bytes = unsafe { std::slice::from_raw_parts(buffer.address as *const u8, buffer.len) };
            // Of the workspace, what launches leave there for nobody is zero in the main.
            let len = if buffer.argument == 11 {
                bytes.iter().rposition(|&b| b != 0).map_or(0, |i| i + 1)
            } else {
                bytes.len()
            };
            self.number(buffer.len as u64);
            self.blob(&bytes[..len]);
        }
    }
}

//! How large a launch is: grid, block, shared memory, cluster. Plain arithmetic, so that the tests can run it without a GPU.
//!
//! Grids depend on sizes and storage types, not on the number of SMs, so that sums are made of the same parts on every GPU. What a
//! GPU can hold on the chip decides only whether and how a long row is kept there.

use super::params::{BLOCK, COLUMN_BLOCK, IN_FLIGHT, MAX_CHUNKS, MAX_PARTIALS, MAX_TERMS, Workspace};

/// Bytes of the workspace. Zero it once.
pub const WORKSPACE_BYTES: usize = size_of::<Workspace>() + 8 * (MAX_CHUNKS + MAX_PARTIALS) as usize;

/// A launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    pub grid: u32,
    pub block: (u32, u32),
    /// Bytes of dynamic shared memory.
    pub shared: u32,
    /// Blocks of a cluster. More than 1 is a launch attribute, and needs the sm_90 modules.
    pub cluster: u32,
    /// `LaunchArgs::tile`
    pub tile: u64,
    /// `CACHED` in `LaunchArgs::flags`
    pub cached: bool,
    /// Which of the two kernels of a row-wise loss: a thread or a group of threads for each row.
    pub columns: bool,
    /// Bytes of `LaunchArgs::scratch`.
    pub scratch: u64,
}

/// What a GPU can hold on the chip.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Most dynamic shared memory of a block: `MAX_SHARED_MEMORY_PER_BLOCK_OPTIN` less 4 KiB that the kernels declare.
    pub shared: u32,
    /// Most blocks of a cluster: 8 of kernels compiled for compute capability 9.0 or later (that is portable), 1 of others.
    pub cluster: u32,
}

impl Plan {
    pub(super) fn new(grid: u64, block: (u32, u32), tile: u64) -> Self {
        let grid = grid.max(1) as u32;
        Plan { grid, block, shared: 0, cluster: 1, tile, cached: false, columns: false, scratch: 0 }
    }
}

/// Element-wise losses of `n` elements.
pub fn elementwise(n: u64) -> Plan {
    let step = u64::from(BLOCK * IN_FLIGHT);
    let tile = step * n.div_ceil(step * u64::from(MAX_PARTIALS)).max(1);
    Plan::new(n.div_ceil(tile), (BLOCK, 1), tile)
}

/// A launch of the sorted skeleton: so many blocks.
pub fn sorted(blocks: u64, scratch: u64) -> Plan {
    Plan { scratch, ..Plan::new(blocks, (BLOCK, 1), 0) }
}

/// Tiles of a region of so many elements, see `kernels/skeleton/sorted.cuh`.
pub fn sorted_tiles(len: u64) -> u64 {
    len.div_ceil(8 * u64::from(BLOCK))
}

/// Bytes of its scratch memory: numbers of tiles and of segments, how often each byte is in each tile, two halves of keys and items, and a
/// number for each element.
pub fn sorted_scratch(elements: u64, segments: u64, tiles: u64) -> u64 {
    let bytes = 8 * (segments * tiles + segments) + 4 * (2 * segments + segments * tiles * 257) + 20 * elements;
    bytes.next_multiple_of(8)
}

/// A sum of element-wise losses, each of which has a partial sum in every block. What is in flight is in shared memory.
pub fn combined(n: u64, bytes: u64) -> Plan {
    let plan = elementwise(n);
    let shared = u64::from(2 * BLOCK * IN_FLIGHT) * bytes;
    Plan { scratch: u64::from(plan.grid * MAX_TERMS) * 8, shared: shared as u32, ..plan }
}

/// A sum of losses of rows: what the row-wise loss has, and partial sums of the value and of each term in every block.
pub fn combined_rows(plan: Plan, terms: u64) -> Plan {
    Plan { scratch: u64::from(plan.grid) * (1 + terms) * 8, ..plan }
}

/// Row-wise losses of `rows` rows; `tensors` is 2 where targets are dense, else 1, and one more where there is a third.
pub fn rowwise(rows: u64, classes: u64, inner: u64, bytes: u64, tensors: u64, limits: Limits) -> Plan {
    // How many rows each of `at_once` groups does one after another, so that there are not too many partial sums.
    let tile = |at_once: u64, blocks: u64| at_once * rows.div_ceil(at_once * (u64::from(MAX_PARTIALS) / blocks)).max(1);
    if inner > 1 || classes <= 32 {
        // Rows side by side in memory, or so short that a group of threads would be mostly idle.
        let column = classes * bytes * tensors;
        let threads = [COLUMN_BLOCK, 64, 32].into_iter().find(|&t| u64::from(t) * column <= 48 << 10);
        let block = threads.unwrap_or(COLUMN_BLOCK);
        let tile = tile(block.into(), 1);
        let shared = threads.map_or(0, |t| t * column as u32);
        let plan = Plan::new(rows.div_ceil(tile), (block, 1), tile);
        return Plan { shared, cached: threads.is_some(), columns: true, ..plan };
    }
    // A row may begin anywhere in its first pack of 16 bytes.
    let row = (classes * bytes + 16).next_multiple_of(16) * tensors;
    let wide = row / tensors / 16;
    if row <= 4096 {
        // A warp a row.
        let tile = tile(8, 1);
        let plan = Plan::new(rows.div_ceil(tile), (32, 8), tile);
        return Plan { shared: 8 * row as u32, cached: true, ..plan };
    }
    // Two or three blocks an SM, so that one loads while another computes and stores; where that cannot be, at least on the chip.
    let cluster = [1, 2, 4, 8].into_iter().filter(|&c| c <= limits.cluster);
    let share = |c: u32| row.div_ceil(16 * tensors * u64::from(c)) * 16 * tensors;
    let most = u64::from(limits.shared);
    let cluster =
        cluster.clone().find(|&c| share(c) <= most.min(72 << 10)).or(cluster.clone().find(|&c| share(c) <= most));
    let (c, cached) = (cluster.unwrap_or(1), cluster.is_some());
    let threads = (wide / u64::from(c) / 4).next_power_of_two().clamp(128, 256);
    let tile = tile(1, c.into());
    let plan = Plan::new(rows.div_ceil(tile) * u64::from(c), (threads as u32, 1), tile);
    Plan { shared: if cached { share(c) as u32 } else { 0 }, cluster: c, cached, ..plan }
}

/// Region losses: both launches. `beside`: with cross-entropy, which has a cost and a weight in each block, and a scale.
pub fn region(samples: u64, channels: u64, inner: u64, softmax: bool, beside: bool) -> Plan {
    // Positions of a block; at most 4096 blocks a channel of a sample. A softmax has all channels at once, and more positions a block
    // where that leaves enough blocks for a large GPU: fewer sums to add up at last.
    let step = u64::from(BLOCK) * if softmax { 4 } else { 32 };
    let steps = if softmax { (samples.saturating_mul(inner) / (2048 * step)).clamp(1, 8) } else { 1 };
    let tile = step * inner.div_ceil(4096 * step).max(steps);
    let segments = if softmax { samples } else { samples * channels };
    let blocks = segments * inner.div_ceil(tile);
    let sums = blocks.max(1) * if softmax { channels } else { 1 } * 24;
    let more = if beside { blocks.max(1) * 16 + 8 } else { 0 };
    Plan { scratch: sums + samples * channels * 8 + more, ..Plan::new(blocks, (BLOCK, 1), tile) }
}

/// The relativistic average of two batches: all three launches.
pub fn relativistic_average(n_high: u64, n_low: u64) -> Plan {
    let tile = u64::from(BLOCK) * 16 * n_high.max(n_low).div_ceil(u64::from(BLOCK * 16 * MAX_PARTIALS / 2)).max(1);
    let blocks = n_high.div_ceil(tile) + n_low.div_ceil(tile);
    Plan { scratch: (4 + 2 * blocks.max(1)) * 8, ..Plan::new(blocks, (BLOCK, 1), tile) }
}

//! How many tokens of a head are done at once, and where in its memory everything is. Plain arithmetic.

use super::params::HeadState;
use super::request::Dtype;
use crate::error::{Error, Result};
use crate::head::LinearShape;

/// Chunks and blocks are multiples of this where they can be: of the tiles that tensor cores are given.
const TILE: usize = 128;
/// What cuBLAS asks for on Hopper; and the least with which it fails nowhere.
pub(super) const CUBLAS: [usize; 2] = [32 << 20, 16 << 10];
/// For each token: its number, class, weight, loss and part of the gradient of the scale; and the value of its chunk.
const TOKEN_LISTS: usize = 24;
/// Where parts of the memory begin.
const BORDER: usize = 256;
/// Parts of the memory.
const PARTS: usize = 6;

/// Where everything is in the memory of a call.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Layout {
    /// Most tokens that count; at least one, for a row of zeros makes gradients of zero.
    pub(super) room: usize,
    pub(super) block: usize,
    pub(super) chunk: usize,
    /// Of logits: for 16-byte accesses, and for tensor cores.
    pub(super) pitch: usize,
    pub(super) logits: usize,
    /// Of the logits; in f32 the logits.
    pub(super) grads: usize,
    pub(super) inputs: usize,
    pub(super) grad_inputs: usize,
    /// Of cuBLAS, and how large that is.
    pub(super) workspace: usize,
    pub(super) cublas: usize,
    pub(super) bytes: usize,
}

impl Layout {
    pub(super) fn new(dtype: Dtype, shape: LinearShape, counted: usize, budget: usize, of_rank: usize) -> Result<Self> {
        let LinearShape { tokens, hidden, classes } = shape;
        let room = counted.min(tokens).max(1);
        // What ranks tell one another of a chunk is behind the lists.
        let of_token = TOKEN_LISTS + 4 * of_rank;
        let pitch = classes.next_multiple_of(8);
        let narrow = dtype.bytes < 4;
        let cublas = (budget / 8).clamp(CUBLAS[1], CUBLAS[0]);
        let wide = |n: usize| n as u128;
        let lists = (size_of::<HeadState>() + PARTS * BORDER) as u128 + wide(of_token) * wide(room);
        // Of a token of a block, and of one of a chunk besides.
        let of_block = wide(hidden) * u128::from(dtype.bytes + 4) + wide(pitch) * u128::from(dtype.bytes);
        let of_chunk = if narrow { 4 * wide(pitch) } else { 0 };
        let needed = wide(cublas) + lists + of_block + of_chunk;
        if needed > wide(budget) {
            return Err(Error::Budget { needed, budget });
        }
        // For blocks and chunks.
        let rest = wide(budget) - wide(cublas) - lists;
        let whole = |n: usize| if n < TILE { n } else { n / TILE * TILE };
        // All of `n`, or parts of equal size.
        let equal = |n: usize, most: u128| {
            let most = whole(most.clamp(1, wide(n)) as usize);
            let part = n.div_ceil(n.div_ceil(most));
            if part.next_multiple_of(TILE) <= most { part.next_multiple_of(TILE) } else { part }
        };
        let block = equal(room, ((rest - of_chunk) / of_block).min(4 * rest / (4 * of_block + of_chunk)));
        let left = rest - wide(block) * of_block;
        let chunk = left.checked_div(of_chunk).map_or(block, |most| equal(block, most));
        let mut end = 0;
        let mut part = |bytes: usize| {
            let start = end;
            end = (start + bytes).next_multiple_of(BORDER);
            start
        };
        part(size_of::<HeadState>() + of_token * room);
        let (logits, bytes) = (part(chunk * pitch * 4), dtype.bytes as usize);
        let grads = if narrow { part(block * pitch * bytes) } else { logits };
        let (inputs, grad_inputs, workspace) = (part(block * hidden * bytes), part(block * hidden * 4), part(cublas));
        Ok(Layout { room, block, chunk, pitch, logits, grads, inputs, grad_inputs, workspace, cublas, bytes: end })
    }

    pub(super) fn chunks(&self) -> usize {
        self.parts().count()
    }

    /// The first token of each chunk and how many it has, and whether it is the first and the last of its block.
    pub(super) fn parts(&self) -> impl Iterator<Item = Part> {
        let Layout { room, block, chunk, .. } = *self;
        (0..room).step_by(block).flat_map(move |start| {
            let end = room.min(start + block);
            let of = move |first: usize| Part { block: (start, end - start), first, count: chunk.min(end - first) };
            (start..end).step_by(chunk).map(of)
        })
    }
}

/// A chunk.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Part {
    /// The first token of its block, and how many there are.
    pub(super) block: (usize, usize),
    pub(super) first: usize,
    pub(super) count: usize,
}

impl Part {
    pub(super) fn ends_block(&self) -> bool {
        self.first + self.count == self.block.0 + self.block.1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layout_is_within_its_budget_and_parts_cover_all_tokens() {
        for (name, bytes) in [("f32", 4), ("bf16", 2)] {
            let dtype = Dtype { name, bytes };
            for (tokens, hidden, classes) in
                [(0, 0, 1), (1, 1, 1), (300, 16, 33), (8192, 4096, 128_256), (8192, 768, 50_257)]
            {
                let shape = LinearShape { tokens, hidden, classes };
                let Err(Error::Budget { needed, .. }) = Layout::new(dtype, shape, tokens, 0, 7) else {
                    panic!("0 is enough")
                };
                let least = needed as usize;
                for budget in [least, least + 1, 2 * least, 256 << 20, 512 << 20, 4 << 30] {
                    let Ok(layout) = Layout::new(dtype, shape, tokens, budget, 7) else {
                        assert!(budget < least.max(1 << 28), "{budget} of {least}");
                        continue;
                    };
                    assert!(layout.bytes <= budget, "{layout:?} of {budget}");
                    let mut next = 0;
                    for part in layout.parts() {
                        assert!(part.first == next && part.count > 0 && part.count <= layout.chunk);
                        assert!(part.block.1 <= layout.block && part.first >= part.block.0);
                        next = part.first + part.count;
                    }
                    assert_eq!(next, tokens.max(1));
                }
            }
        }
    }
}

//! The guide for choosing a loss knows every loss that there is to choose.

use std::collections::BTreeSet;

#[test]
fn the_guide_has_every_loss_of_the_public_interface() {
    let (recorded, guide) = (include_str!("../fused_loss.txt"), include_str!("../../../src/guide.rs"));
    // Implementations of `Loss`; and of the head, whose losses have calls of their own, what can be called.
    let losses = recorded.lines().filter_map(|line| line.strip_prefix("impl fused_loss::Loss for fused_loss::"));
    let of_head = recorded.lines().filter_map(|line| line.strip_prefix("pub fn fused_loss::head::"));
    let of_head = of_head.filter_map(|line| line.split_once("::call<")).map(|(loss, _)| loss);
    let all: BTreeSet<&str> = losses.chain(of_head).collect();
    assert!(all.len() > 40 && all.contains("Mse") && all.contains("InfoNce"), "{all:?}");

    let named: BTreeSet<&str> = guide.split(|c: char| !c.is_alphanumeric() && c != '_').collect();
    let missing: Vec<_> = all.difference(&named).collect();
    assert!(missing.is_empty(), "the guide does not say what these are for: {missing:?}");
}

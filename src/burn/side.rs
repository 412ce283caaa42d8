//! A tensor of burn's, unpacked: what it holds, and where on the graph it is.

use burn_autodiff::Autodiff;
use burn_autodiff::checkpoint::strategy::BalancedCheckpointing;
use burn_backend::tensor::FloatTensor;
use burn_flex::{Flex, FlexTensor};
use burn_tensor::{Float, Int, Tensor};

use super::{Error, Result};

/// burn's name for a tensor of the graph.
pub(super) type OnGraph = FloatTensor<Autodiff<Flex>>;

/// A tensor of a call.
#[derive(Clone, Debug)]
pub(super) enum Side {
    /// Of a device without autodiff.
    Plain(FlexTensor),
    /// Of one with it; and whether that is checkpointed.
    Graph { tensor: OnGraph, balanced: bool, tracked: bool },
}

/// `Float` and `Int`: what a target may be.
pub trait Kind: sealed::Take {}
impl Kind for Float {}
impl Kind for Int {}

mod sealed {
    use super::*;

    pub trait Take: burn_tensor::kind::Basic {
        #[allow(private_interfaces)] // sealed
        fn take<const D: usize>(what: &str, tensor: &Tensor<D, Self>) -> Result<Side>
        where
            Self: Sized;
    }

    impl Take for Float {
        #[allow(private_interfaces)]
        fn take<const D: usize>(what: &str, tensor: &Tensor<D>) -> Result<Side> {
            let elsewhere = |_| not_here(what, &tensor.device());
            if !tensor.is_autodiff() {
                return tensor.clone().try_into_primitive::<Flex>().map(Side::Plain).map_err(elsewhere);
            }
            let tracked = tensor.is_tracked();
            let plain = tensor.clone().try_into_primitive::<Autodiff<Flex>>();
            let (tensor, balanced) = match plain {
                Ok(tensor) => (tensor, false),
                Err(_) => {
                    let balanced = tensor.clone().try_into_primitive::<Autodiff<Flex, BalancedCheckpointing>>();
                    (balanced.map_err(elsewhere)?, true)
                }
            };
            Ok(Side::Graph { tensor, balanced, tracked })
        }
    }

    impl Take for Int {
        #[allow(private_interfaces)]
        fn take<const D: usize>(what: &str, tensor: &Tensor<D, Int>) -> Result<Side> {
            let plain = tensor.clone().inner().try_into_primitive::<Flex>();
            plain.map(Side::Plain).map_err(|_| not_here(what, &tensor.device()))
        }
    }
}

fn not_here(what: &str, device: &burn_tensor::Device) -> Error {
    Error(format!("{what}: expected a tensor of burn's CPU backend (`Device::flex()`), got one on {device:?}"))
}

impl Side {
    pub(super) fn of<const D: usize, K: Kind>(what: &str, tensor: &Tensor<D, K>) -> Result<Side> {
        <K as sealed::Take>::take(what, tensor)
    }

    pub(super) fn primitive(&self) -> &FlexTensor {
        match self {
            Side::Plain(x) => x,
            Side::Graph { tensor, .. } => tensor.primitive(),
        }
    }

    pub(super) fn into_primitive(self) -> FlexTensor {
        match self {
            Side::Plain(x) => x,
            Side::Graph { tensor, .. } => tensor.into_primitive(),
        }
    }

    pub(super) fn is_tracked(&self) -> bool {
        matches!(self, Side::Graph { tracked: true, .. })
    }

    pub(super) fn dims(&self) -> Vec<usize> {
        self.primitive().layout().shape().to_vec()
    }

    /// Without its history.
    pub(super) fn detached(self) -> Side {
        Side::Plain(self.into_primitive())
    }

    /// A result of a call with this tensor: on a device like its own, without a history.
    pub(super) fn alike(&self, x: FlexTensor) -> Side {
        match self {
            Side::Plain(_) => Side::Plain(x),
            Side::Graph { balanced, .. } => {
                Side::Graph { tensor: OnGraph::new(x), balanced: *balanced, tracked: false }
            }
        }
    }

    pub(super) fn tensor<const D: usize>(self) -> Tensor<D> {
        match self {
            Side::Plain(x) => Tensor::from_primitive::<Flex>(x),
            Side::Graph { tensor, balanced: false, .. } => Tensor::from_primitive::<Autodiff<Flex>>(tensor),
            Side::Graph { tensor, .. } => Tensor::from_primitive::<Autodiff<Flex, BalancedCheckpointing>>(tensor),
        }
    }
}

/// The number in a tensor of one.
pub(super) fn scalar(x: &FlexTensor) -> f32 {
    x.as_slice::<f32>().and_then(|x| x.first().copied()).unwrap_or(f32::NAN)
}

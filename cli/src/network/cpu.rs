//! The network on the CPU, in f32 for training without a GPU and in f64 for the tests.

use ndarray::{Array1, Array2, ArrayViewMutD, Axis, Zip};
use wgpu_optim::CpuFloat;

use super::{Layer, Outcome, layers};
use crate::error::{Error, Result};

/// A linear layer's parameters, or their gradients.
#[derive(Debug, Clone)]
pub struct Linear<F> {
    pub weight: Array2<F>,
    pub bias: Array1<F>,
}

/// The layers from parameters in the order of [`specs`](super::specs).
pub fn network<F: CpuFloat>(params: &[Vec<f32>]) -> Result<Vec<Linear<F>>> {
    let convert = |values: &Vec<f32>| values.iter().map(|x| F::of(f64::from(*x))).collect::<Vec<_>>();
    let layer = |(layer, params): (Layer, &[Vec<f32>])| {
        let weight = Array2::from_shape_vec((layer.outputs, layer.inputs), convert(&params[0]))
            .map_err(|e| Error::failed(format!("{}: {e}", layer.weight())))?;
        Ok(Linear { weight, bias: Array1::from(convert(&params[1])) })
    };
    layers().zip(params.chunks_exact(2)).map(layer).collect()
}

/// The parameters in the order of [`specs`](super::specs).
pub fn params(network: &[Linear<f32>]) -> Vec<Vec<f32>> {
    let values = |layer: &Linear<f32>| [layer.weight.iter().copied().collect(), layer.bias.iter().copied().collect()];
    network.iter().flat_map(values).collect()
}

/// The same in place.
pub fn views(network: &mut [Linear<f32>]) -> Vec<ArrayViewMutD<'_, f32>> {
    network
        .iter_mut()
        .flat_map(|Linear { weight, bias }| [weight.view_mut().into_dyn(), bias.view_mut().into_dyn()])
        .collect()
}

/// The inputs of each layer, and last the logits.
fn forward<F: CpuFloat>(network: &[Linear<F>], images: Array2<F>) -> Vec<Array2<F>> {
    let mut values = vec![images];
    for (layer, linear) in layers().zip(network) {
        let mut y = values[values.len() - 1].dot(&linear.weight.t()) + &linear.bias;
        if layer.relu() {
            y.mapv_inplace(|v| v.max(F::zero()));
        }
        values.push(y);
    }
    values
}

/// Softmax and cross-entropy, as in `shaders/loss.wgsl`: each row's outcome, and the gradient of the
/// mean loss with respect to the logits.
fn loss<F: CpuFloat>(logits: &Array2<F>, labels: &[u8]) -> (Vec<Outcome>, Array2<F>) {
    let rows = F::of(labels.len() as f64);
    let mut delta = logits.clone();
    let outcomes = delta.rows_mut().into_iter().zip(labels).map(|(mut row, label)| {
        let label = usize::from(*label);
        let best = (1..row.len()).fold(0, |best, k| if row[k] > row[best] { k } else { best });
        let largest = row[best];
        row.mapv_inplace(|v| v - largest);
        let own = row[label];
        row.mapv_inplace(F::exp);
        let sum = row.sum();
        row.mapv_inplace(|v| v / sum / rows);
        row[label] = row[label] - F::one() / rows;
        Outcome { loss: (sum.ln() - own).f64(), correct: best == label }
    });
    (outcomes.collect(), delta)
}

/// What the network makes of those images.
pub fn judge<F: CpuFloat>(network: &[Linear<F>], images: Array2<F>, labels: &[u8]) -> Vec<Outcome> {
    forward(network, images).pop().map(|logits| loss(&logits, labels).0).unwrap_or_default()
}

/// The gradients of the mean loss, and what the network makes of those images.
pub fn gradients<F: CpuFloat>(
    network: &[Linear<F>],
    images: Array2<F>,
    labels: &[u8],
) -> (Vec<Linear<F>>, Vec<Outcome>) {
    let values = forward(network, images);
    let (outcomes, mut delta) = loss(&values[network.len()], labels);
    let mut gradients = Vec::with_capacity(network.len());
    for (index, linear) in network.iter().enumerate().rev() {
        let x = &values[index];
        // Row-major, as the parameters are: the optimizer then needs no copy.
        let weight = delta.t().dot(x).as_standard_layout().into_owned();
        gradients.push(Linear { weight, bias: delta.sum_axis(Axis(0)) });
        if index > 0 {
            let mut input_delta = delta.dot(&linear.weight);
            Zip::from(&mut input_delta).and(x).for_each(|d, x| {
                if *x <= F::zero() {
                    *d = F::zero();
                }
            });
            delta = input_delta;
        }
    }
    gradients.reverse();
    (gradients, outcomes)
}

//! The twin of `shaders/update.wgsl`: the loop over the elements of a block.

use super::{Block, MAX_SLOTS, Measure, Norms, SlotArray, Twin, UpdateSettings};
use crate::float::Float;
use crate::hyper::HyperRow;
use crate::maths::{average, square};

/// Elements whose state is gathered at a time: small enough for registers and the first cache.
const LANES: usize = 64;

fn clamp<F: Float>(x: F, limit: F) -> F {
    // Not `Float::min`, which would turn NaN into the limit.
    if x > limit {
        limit
    } else if x < -limit {
        -limit
    } else {
        x
    }
}

/// The gradient as the norm sees it: unscaled, non-finite elements zeroed where asked, then clipped by value.
#[inline(always)]
pub(crate) fn condition<F: Float>(g: F, settings: &UpdateSettings) -> F {
    let g = if settings.zero_nonfinite && !g.is_finite() { F::zero() } else { g * F::of(settings.unscale) };
    match settings.clip_value {
        Some(limit) => clamp(g, F::of(limit)),
        None => g,
    }
}

/// [`run`] with the widest vectors that this processor has and that pay. No instruction set changes a
/// bit: nothing is contracted or reordered.
pub(super) fn dispatch<T: Twin, F: Float, const MEASURE: bool>(rule: &T, block: Block<'_, F>) -> Measure {
    let settings = &block.settings;
    let plain = !MEASURE && settings.cautious.is_none() && settings.share.is_none() && settings.weight_clip.is_none();
    #[cfg(target_arch = "x86_64")]
    if std::is_x86_feature_detected!("avx2") {
        return match plain {
            true => wide::<T, F, MEASURE, true>(rule, block),
            false => wide::<T, F, MEASURE, false>(rule, block),
        };
    }
    match plain {
        true => run::<T, F, MEASURE, true>(rule, block),
        false => run::<T, F, MEASURE, false>(rule, block),
    }
}

#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code, reason = "the only way to build one function for a wider instruction set")]
fn wide<T: Twin, F: Float, const MEASURE: bool, const PLAIN: bool>(rule: &T, block: Block<'_, F>) -> Measure {
    #[target_feature(enable = "avx2")]
    fn avx2<T: Twin, F: Float, const MEASURE: bool, const PLAIN: bool>(rule: &T, block: Block<'_, F>) -> Measure {
        run::<T, F, MEASURE, PLAIN>(rule, block)
    }
    // SAFETY: `dispatch` calls this only where the processor has AVX2. That its results are those of
    // `run` is tested below.
    unsafe { avx2::<T, F, MEASURE, PLAIN>(rule, block) }
}

/// Updates a block, or measures what its update would add up to. `PLAIN` has no mask, no share and no limit of
/// weights: without those tests the loop over elements becomes vectors.
#[inline(always)]
fn run<T: Twin, F: Float, const MEASURE: bool, const PLAIN: bool>(rule: &T, block: Block<'_, F>) -> Measure {
    let Block { params, gradients, mut slots, active, scalars, settings, by_line } = block;
    let h = T::Hyper::<F>::from_row(scalars);
    let mut lr = F::of(settings.lr);
    if let Some([p_norm, u_norm]) = settings.norms {
        let norms = Norms { params: F::of(p_norm), update: F::of(u_norm), elements: F::of(settings.elements), lr };
        lr = lr * rule.ratio(&norms, &h);
    }
    if let Some(growth) = settings.cautious {
        lr = F::of(settings.lr * growth);
    }
    let lr_decoupled = F::of(settings.lr_decoupled);
    let coupled = F::of(settings.coupled);
    let in_ratio = F::of(settings.in_ratio);
    let sign = F::of(settings.sign);
    // Two factors where one leaves f32, as in the shader.
    let exponent = if settings.coefficient == 0.0 { 0.0 } else { settings.coefficient.log2().floor() };
    let exponent = if exponent.abs() < 126.0 { 0.0 } else { exponent.clamp(-126.0, 126.0) };
    let scale = F::of(exponent.exp2());
    let coefficient = F::of(settings.coefficient / exponent.exp2());
    let conditioned = settings.clip_value.is_some() || settings.zero_nonfinite || settings.unscale != 1.0;
    // Slots that are off read as zero, and what the rule writes there is dropped.
    let mut lanes = [[F::zero(); LANES]; MAX_SLOTS];
    let mut gs = [F::zero(); LANES];
    let mut measure = Measure::default();

    for (index, (params, gradients)) in params.chunks_mut(LANES).zip(gradients.chunks(LANES)).enumerate() {
        let range = index * LANES..index * LANES + params.len();
        for (slot, &which) in slots.iter().zip(active) {
            lanes[which][..params.len()].copy_from_slice(&slot[range.clone()]);
        }
        if conditioned {
            gs.iter_mut().zip(gradients).for_each(|(to, g)| *to = condition(*g, &settings));
        } else {
            gs[..gradients.len()].copy_from_slice(gradients);
        }
        gs.iter_mut().for_each(|g| *g = *g * scale * coefficient);
        let first = by_line.first + range.start as u64;
        if let Some((lines, factors)) = by_line.units {
            for (g, element) in gs[..params.len()].iter_mut().zip(first..) {
                *g = *g * factors[(element % lines.count) as usize];
            }
        }
        for (g, p) in gs.iter_mut().zip(&*params) {
            *g = sign * *g + coupled * *p;
        }
        if let Some(slot) = by_line.mean_square {
            let weight = F::of(scalars[0]);
            for (i, g) in gs[..params.len()].iter().enumerate() {
                lanes[slot][i] = match &by_line.factors {
                    Some(factors) => factors.at(first + i as u64),
                    None => average(lanes[slot][i], square(*g), weight),
                };
            }
        }
        for (i, (p, &g)) in params.iter_mut().zip(&gs).enumerate() {
            let mut state = T::State::<F>::from_fn(|k| lanes[k][i]);
            let u = rule.direction(*p, g, &mut state, &h) + in_ratio * *p;
            let agrees = !PLAIN && ((u > F::zero() && g > F::zero()) || (u < F::zero() && g < F::zero()));
            if MEASURE {
                measure.params += p.f64() * p.f64();
                measure.update += u.f64() * u.f64();
                measure.kept += u64::from(agrees);
                continue;
            }
            let u = if !PLAIN && settings.cautious.is_some() && !agrees { F::zero() } else { u };
            let step = match settings.share {
                Some(share) if !PLAIN => rule.averaged(*p, lr * u, F::of(share), &mut state, &h),
                _ => rule.finish(lr * u, &mut state, &h),
            };
            for (lane, value) in lanes.iter_mut().zip(state.as_slice()) {
                lane[i] = *value;
            }
            *p = *p - (step + lr_decoupled * *p);
            if let Some(limit) = settings.weight_clip.filter(|_| !PLAIN) {
                *p = clamp(*p, F::of(limit));
            }
        }
        if !MEASURE {
            for (slot, &which) in slots.iter_mut().zip(active) {
                slot[range.clone()].copy_from_slice(&lanes[which][..params.len()]);
            }
        }
    }
    measure
}

/// Replaces parameters by those to evaluate with.
pub(super) fn evaluate<T: Twin, F: Float>(rule: &T, block: Block<'_, F>) {
    let h = T::Hyper::<F>::from_row(block.scalars);
    for (i, p) in block.params.iter_mut().enumerate() {
        let value = |slot| block.active.iter().position(|a| *a == slot).map_or(F::zero(), |at| block.slots[at][i]);
        *p = rule.evaluated(*p, &T::State::<F>::from_fn(value), &h);
    }
}

#[cfg(test)]
mod tests {
    use super::super::ByLine;
    use super::*;
    use crate::rule::Rule;
    use crate::rules::AdamW;

    #[test]
    fn wide_vectors_change_no_bit() {
        let rule = AdamW { amsgrad: true, ..AdamW::default() };
        // An odd length; magnitudes from 1e-20 to 1e16, both signs.
        let values = |seed: f32| -> Vec<f32> {
            (0..1001).map(|i| ((i as f32 * seed).sin()) * 10f32.powi(i % 37 - 20)).collect()
        };
        let settings = UpdateSettings {
            lr: 1e-3,
            coupled: 0.1,
            lr_decoupled: 1e-5,
            in_ratio: 0.0,
            sign: -1.0,
            unscale: 0.25,
            coefficient: 0.7,
            clip_value: Some(1e9),
            zero_nonfinite: true,
            cautious: Some(1.5),
            norms: None,
            elements: 1001.0,
            share: None,
            weight_clip: Some(1e10),
        };
        let scalars = rule.scalars(3);
        let outcome = |settings: UpdateSettings, f: fn(&AdamW, Block<'_, f32>) -> Measure| {
            let mut params = values(0.3);
            let mut slots = [values(0.7), values(1.1), values(1.3)];
            slots[1..].iter_mut().flatten().for_each(|v| *v = v.abs());
            let block = Block {
                params: &mut params,
                gradients: &values(2.1),
                slots: slots.iter_mut().map(Vec::as_mut_slice).collect(),
                active: &[0, 1, 2],
                scalars: &scalars,
                settings,
                by_line: ByLine::default(),
            };
            let measure = f(&rule, block);
            let bits: Vec<u32> = slots.iter().flatten().chain(&params).map(|x| x.to_bits()).collect();
            (bits, measure)
        };
        assert_eq!(
            outcome(settings, dispatch::<AdamW, f32, false>),
            outcome(settings, run::<AdamW, f32, false, false>)
        );
        assert_eq!(outcome(settings, dispatch::<AdamW, f32, true>), outcome(settings, run::<AdamW, f32, true, false>));
        // Neither does leaving out the tests of what is not asked for.
        let settings = UpdateSettings { cautious: None, weight_clip: None, ..settings };
        assert_eq!(
            outcome(settings, dispatch::<AdamW, f32, false>),
            outcome(settings, run::<AdamW, f32, false, false>)
        );
    }
}

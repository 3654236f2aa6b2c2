//! The twin of `shaders/update.wgsl`: the loop over the elements of a block.

use super::wide::widest;
use crate::config::schedule::LARGEST_LR;
use crate::rule::float::Float;
use crate::rule::hyper::HyperRow;
use crate::rule::kernel::{Block, CpuKernel, Measure, UpdateSettings};
use crate::rule::maths::{LARGEST_SEEN, average, bounded, square};
use crate::rule::normal::normal;
use crate::rule::twin::{Element, MAX_SLOTS, Norms, SlotArray, Twin};
use std::any::TypeId;

/// Elements whose state is gathered at a time: small enough for registers and the first cache.
const LANES: usize = 64;

/// The gradient as the norm sees it: unscaled, non-finite elements zeroed where asked, then clipped by value.
#[inline(always)]
pub(crate) fn condition<F: Float>(g: F, settings: &UpdateSettings) -> F {
    let g = if settings.zero_nonfinite && !g.is_finite() { F::zero() } else { g * F::of(settings.unscale) };
    match settings.clip_value {
        Some(limit) => bounded(g, F::of(limit)),
        None => g,
    }
}

impl<T: Twin> CpuKernel for T {
    fn type_of_rule(&self) -> TypeId {
        TypeId::of::<T>()
    }
    fn update_f32(&self, block: Block<'_, f32>) {
        dispatch::<T, f32, false>(self, block);
    }
    fn update_f64(&self, block: Block<'_, f64>) {
        dispatch::<T, f64, false>(self, block);
    }
    fn measure_f32(&self, block: Block<'_, f32>) -> Measure {
        dispatch::<T, f32, true>(self, block)
    }
    fn measure_f64(&self, block: Block<'_, f64>) -> Measure {
        dispatch::<T, f64, true>(self, block)
    }
    fn evaluate_f32(&self, block: Block<'_, f32>) {
        evaluate(self, block);
    }
    fn evaluate_f64(&self, block: Block<'_, f64>) {
        evaluate(self, block);
    }
}

/// A block's update, or what it would add up to.
fn dispatch<T: Twin, F: Float, const MEASURE: bool>(rule: &T, block: Block<'_, F>) -> Measure {
    widest(
        #[inline(always)]
        || run::<T, F, MEASURE>(rule, block),
    )
}

#[inline(always)]
fn run<T: Twin, F: Float, const MEASURE: bool>(rule: &T, block: Block<'_, F>) -> Measure {
    if MEASURE || !is_common(&block) {
        return general::<T, F, MEASURE>(rule, block);
    }
    match block.slots.len() {
        0 => common::<T, F, 0>(rule, block),
        1 => common::<T, F, 1>(rule, block),
        2 => common::<T, F, 2>(rule, block),
        3 => common::<T, F, 3>(rule, block),
        _ => common::<T, F, MAX_SLOTS>(rule, block),
    }
    Measure::default()
}

/// A rate that passed f32 on its way, as `held_rate` of the shaders.
fn held<F: Float>(lr: F) -> F {
    if lr > F::of(LARGEST_LR) { F::of(LARGEST_LR) } else { lr }
}

/// Whether [`common`] serves the block: nothing is asked for but the rule's own step, and the slots that are
/// on come before those that are off.
fn is_common<F: Float>(block: &Block<'_, F>) -> bool {
    let Block { settings, by_line, active, .. } = block;
    let plain_gradients = settings.clip_value.is_none() && !settings.zero_nonfinite;
    let plain_steps = settings.cautious.is_none() && settings.share.is_none();
    let plain_weights = settings.weight_clip.is_none() && settings.noise.is_none();
    let by_element = by_line.units.is_none() && by_line.mean_square.is_none();
    plain_gradients
        && plain_steps
        && plain_weights
        && by_element
        && active.iter().enumerate().all(|(place, which)| place == *which)
}

/// What is the same for all elements of a block.
struct Terms<F> {
    lr: F,
    lr_decoupled: F,
    coupled: F,
    in_ratio: F,
    sign: F,
    /// The gradient's factor is their product. Two where one leaves f32, as in the shader.
    scale: F,
    coefficient: F,
    /// Bounds of what the rule sees and of what it leaves.
    largest_seen: F,
    largest: F,
}

impl<F: Float> Terms<F> {
    fn of<T: Twin>(rule: &T, h: &T::Hyper<F>, settings: &UpdateSettings) -> Self {
        let any_gradient = settings.any_gradient;
        let mut lr = F::of(settings.lr);
        if let Some([p_norm, u_norm]) = settings.norms {
            let norms = Norms { params: F::of(p_norm), update: F::of(u_norm), elements: F::of(settings.elements), lr };
            lr = held(lr * rule.ratio(&norms, h));
        }
        if let Some(growth) = settings.cautious {
            lr = held(F::of(settings.lr * growth));
        }
        let exponent = if settings.coefficient == 0.0 { 0.0 } else { settings.coefficient.log2().floor() };
        let exponent = if exponent.abs() < 126.0 { 0.0 } else { exponent.clamp(-126.0, 126.0) };
        Self {
            lr,
            lr_decoupled: F::of(settings.lr_decoupled),
            coupled: F::of(settings.coupled),
            in_ratio: F::of(settings.in_ratio),
            sign: F::of(settings.sign),
            scale: F::of(exponent.exp2()),
            coefficient: F::of(settings.coefficient / exponent.exp2()),
            largest_seen: F::of(if any_gradient { f32::MAX.into() } else { LARGEST_SEEN }),
            largest: if any_gradient { F::of(f32::MAX.into()) } else { F::infinity() },
        }
    }

    /// A conditioned gradient times its factor.
    #[inline(always)]
    fn scaled(&self, g: F) -> F {
        g * self.scale * self.coefficient
    }

    /// The gradient as the rule sees it.
    #[inline(always)]
    fn seen(&self, g: F, p: F) -> F {
        bounded(self.sign * g + self.coupled * p, self.largest_seen)
    }

    /// The parameter after the rule's step. One subtraction: decay and step are rounded into it together.
    #[inline(always)]
    fn moved(&self, p: F, step: F) -> F {
        bounded(p - (step + self.lr_decoupled * p), self.largest)
    }
}

/// The update without anything that is seldom asked for: one pass, in place, whose loop becomes vectors.
/// `ACTIVE` slots are on.
#[inline(always)]
fn common<T: Twin, F: Float, const ACTIVE: usize>(rule: &T, block: Block<'_, F>) {
    let Block { params, gradients, slots, scalars, settings, .. } = block;
    let h = T::Hyper::<F>::from_row(scalars);
    let terms = Terms::of(rule, &h, &settings);
    let unscale = F::of(settings.unscale);
    // Slices of one length, so that the loop needs no checks.
    let len = params.len();
    let gradients = &gradients[..len];
    let mut slots = slots.into_iter();
    let mut slots: [&mut [F]; ACTIVE] =
        std::array::from_fn(|_| slots.next().map_or(&mut [][..], |slot| &mut slot[..len]));
    for i in 0..len {
        let p = params[i];
        let g = terms.seen(terms.scaled(gradients[i] * unscale), p);
        // Slots that are off read as zero, and what the rule writes there is dropped.
        let mut state = T::State::<F>::from_fn(|slot| if slot < ACTIVE { slots[slot][i] } else { F::zero() });
        let e = Element::new(p, g);
        let u = rule.direction(e, &mut state, &h) + terms.in_ratio * p;
        let step = rule.finish(e, terms.lr * u, &mut state, &h);
        for (slot, value) in slots.iter_mut().zip(state.as_slice()) {
            slot[i] = *value;
        }
        params[i] = terms.moved(p, step);
    }
}

/// Elements of a stretch, and zeros up to a full one.
#[inline(always)]
fn padded<F: Float>(values: &[F]) -> [F; LANES] {
    // Of the full length a copy is a few vectors, else a call.
    <[F; LANES]>::try_from(values).unwrap_or_else(|_| {
        let mut padded = [F::zero(); LANES];
        padded[..values.len()].copy_from_slice(values);
        padded
    })
}

/// Writes a stretch back.
#[inline(always)]
fn put<F: Float>(padded: &[F; LANES], values: &mut [F]) {
    match <&mut [F; LANES]>::try_from(&mut *values) {
        Ok(full) => *full = *padded,
        Err(_) => values.copy_from_slice(&padded[..values.len()]),
    }
}

/// Updates a block whatever is asked for, or measures what its update would add up to.
#[inline(always)]
fn general<T: Twin, F: Float, const MEASURE: bool>(rule: &T, block: Block<'_, F>) -> Measure {
    let Block { params, gradients, mut slots, active, scalars, settings, by_line } = block;
    let h = T::Hyper::<F>::from_row(scalars);
    let terms = Terms::of(rule, &h, &settings);
    let noise = settings.noise.map(|(noise, root)| (noise, F::of(settings.lr).sqrt() * F::of(root)));
    // A rate of 0 leaves weights alone.
    let noise = noise.filter(|(_, size)| *size != F::zero());
    let conditioned = settings.clip_value.is_some() || settings.zero_nonfinite || settings.unscale != 1.0;
    // Slots that are off read as zero, and what the rule writes there is dropped.
    let mut lanes = [[F::zero(); LANES]; MAX_SLOTS];
    let mut measure = Measure::default();

    for (index, (params, gradients)) in params.chunks_mut(LANES).zip(gradients.chunks(LANES)).enumerate() {
        let len = params.len();
        let range = index * LANES..index * LANES + len;
        for (slot, &which) in slots.iter().zip(active) {
            lanes[which] = padded(&slot[range.clone()]);
        }
        let mut ps = padded(params);
        let mut gs = padded(gradients);
        if conditioned {
            gs.iter_mut().for_each(|g| *g = condition(*g, &settings));
        }
        gs.iter_mut().for_each(|g| *g = terms.scaled(*g));
        let first = by_line.first + range.start as u64;
        if let Some((lines, factors)) = by_line.units {
            for (g, element) in gs[..len].iter_mut().zip(first..) {
                *g = *g * factors[(element % lines.count) as usize];
            }
        }
        for (g, p) in gs.iter_mut().zip(&ps) {
            *g = terms.seen(*g, *p);
        }
        if let Some(slot) = by_line.mean_square {
            let [beta, weight] = [scalars[0], scalars[1]].map(F::of);
            for (i, g) in gs[..len].iter().enumerate() {
                lanes[slot][i] = match &by_line.factors {
                    Some(factors) => factors.at(first + i as u64),
                    None => average(lanes[slot][i], square(*g), beta, weight),
                };
            }
        }
        for (i, (p, &g)) in ps.iter_mut().zip(&gs).enumerate() {
            let mut state = T::State::<F>::from_fn(|k| lanes[k][i]);
            let e = Element::new(*p, g);
            let u = rule.direction(e, &mut state, &h) + terms.in_ratio * *p;
            let agrees = (u > F::zero() && g > F::zero()) || (u < F::zero() && g < F::zero());
            if MEASURE {
                if i < len {
                    measure.params += p.f64() * p.f64();
                    measure.update += u.f64() * u.f64();
                    measure.kept += u64::from(agrees);
                }
                continue;
            }
            let u = if settings.cautious.is_some() && !agrees { F::zero() } else { u };
            let step = match settings.share {
                Some(share) => rule.averaged(e, terms.lr * u, F::of(share), &mut state, &h),
                None => rule.finish(e, terms.lr * u, &mut state, &h),
            };
            for (lane, value) in lanes.iter_mut().zip(state.as_slice()) {
                lane[i] = *value;
            }
            *p = terms.moved(*p, step);
            if let Some((noise, size)) = noise {
                *p = bounded(*p + size * normal(noise.normal_word(first + i as u64)), terms.largest);
            }
            if let Some(limit) = settings.weight_clip {
                *p = bounded(*p, F::of(limit));
            }
        }
        if !MEASURE {
            for (slot, &which) in slots.iter_mut().zip(active) {
                put(&lanes[which], &mut slot[range.clone()]);
            }
            put(&ps, params);
        }
    }
    measure
}

/// Replaces parameters by those to evaluate with.
fn evaluate<T: Twin, F: Float>(rule: &T, block: Block<'_, F>) {
    let h = T::Hyper::<F>::from_row(block.scalars);
    for (i, p) in block.params.iter_mut().enumerate() {
        let value = |slot| block.active.iter().position(|a| *a == slot).map_or(F::zero(), |at| block.slots[at][i]);
        *p = rule.evaluated(Element::new(*p, F::zero()), &T::State::<F>::from_fn(value), &h);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::wide::{at, levels};
    use crate::rule::Rule;
    use crate::rule::kernel::ByLine;
    use crate::rules::AdamW;
    use crate::storage::Noise;

    #[test]
    fn settings_left_out_change_no_gradient() {
        let outcome = |settings: UpdateSettings| {
            let (mut params, gradients, mut slot) = ([0.5f32, 0.5], [2.0, -3.0], [0.0; 2]);
            let rule = crate::rules::Sgd { momentum: 0.9, ..Default::default() };
            let slots = std::iter::once(slot.as_mut_slice()).collect();
            let (active, scalars) = ([0], rule.scalars(1, rule.lr));
            let by_line = ByLine::default();
            let (gradients, active, scalars) = (&gradients, &active, &scalars);
            let block = Block { params: &mut params, gradients, slots, active, scalars, settings, by_line };
            dispatch::<_, _, false>(&rule, block);
            (params, slot)
        };
        // The first buffer is the gradient.
        assert_eq!(outcome(UpdateSettings::default()), ([0.5; 2], [2.0, -3.0]));
    }

    #[test]
    fn neither_vectors_nor_shortcuts_change_a_bit() {
        let rule = AdamW { amsgrad: true, ..AdamW::default() };
        // An odd length; magnitudes from 1e-20 to 1e16, both signs.
        let values = |seed: f32| -> Vec<f32> {
            (0..1001).map(|i| ((i as f32 * seed).sin()) * 10f32.powi(i % 37 - 20)).collect()
        };
        let settings = UpdateSettings {
            lr: 1e-3,
            coupled: 0.1,
            lr_decoupled: 1e-5,
            in_ratio: 0.01,
            sign: -1.0,
            unscale: 0.25,
            coefficient: 0.7,
            clip_value: Some(1e9),
            zero_nonfinite: true,
            cautious: Some(1.5),
            norms: None,
            elements: 1001.0,
            any_gradient: false,
            share: None,
            weight_clip: Some(1e10),
            noise: Some((Noise { key: 7, steps: 9 }, 0.1)),
        };
        let scalars = rule.scalars(3, rule.lr);
        let outcome = |settings: UpdateSettings, f: &dyn Fn(&AdamW, Block<'_, f32>) -> Measure| {
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
        let every = outcome(settings, &general::<AdamW, f32, false>);
        let measured = outcome(settings, &general::<AdamW, f32, true>);
        let plain = UpdateSettings {
            cautious: None,
            weight_clip: None,
            noise: None,
            clip_value: None,
            zero_nonfinite: false,
            ..settings
        };
        let common = outcome(plain, &general::<AdamW, f32, false>);
        assert_ne!(common, every);
        for level in levels() {
            let update = |rule: &_, block: Block<'_, _>| {
                at(
                    level,
                    #[inline(always)]
                    || run::<AdamW, f32, false>(rule, block),
                )
            };
            let measure = |rule: &_, block: Block<'_, _>| {
                at(
                    level,
                    #[inline(always)]
                    || run::<AdamW, f32, true>(rule, block),
                )
            };
            assert_eq!(outcome(settings, &update), every, "{level:?}");
            assert_eq!(outcome(settings, &measure), measured, "{level:?}");
            // What is common goes another way.
            assert_eq!(outcome(plain, &update), common, "{level:?}");
        }
    }
}

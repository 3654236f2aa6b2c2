// The gradient as sums and rule see it: unscaled, non-finite elements zeroed where asked, then clipped
// by value. Scan and update share it, so that the norm is of what the update applies.

override UNSCALE: bool = false;
override ZERO_NONFINITE: bool = false;
override CLIP_VALUE: bool = false;

fn condition(words: vec4<u32>, unscale: f32) -> vec4<f32> {
    var g = unpack(words);
    if UNSCALE {
        g *= factor_of(unscale);
    }
    if ZERO_NONFINITE {
        g = select(g, vec4<f32>(), nonfinite(words));
    }
    if CLIP_VALUE {
        g = clamp(g, vec4<f32>(-settings.clip_value), vec4<f32>(settings.clip_value));
    }
    return g;
}

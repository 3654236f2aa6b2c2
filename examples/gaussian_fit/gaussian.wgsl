// A picture as a sum of 2-D Gaussians, and the gradient of its squared error (the additive model of
// Zhang et al. 2024, "GaussianImage"). A Gaussian has a position in pixels, a shape (the logarithms of
// its two scales, and a rotation) and a colour; each is a tensor of its own. No kernel needs atomics:
// `render` gathers by pixel and `backward` by Gaussian, so sums have one order and the bits repeat.

const TILE: u32 = 8u;
// Standard deviations beyond which a Gaussian is nothing: exp(-3.5²/2) = 2e-3.
const REACH: f32 = 3.5;

override WIDTH: u32;
override HEIGHT: u32;
override COUNT: u32;

@group(0) @binding(0) var<storage, read> position: array<vec2<f32>>;
// Three values a Gaussian.
@group(0) @binding(1) var<storage, read> shape: array<f32>;
@group(0) @binding(2) var<storage, read> colour: array<f32>;
// Three values a pixel: what it should be, and what it is less that.
@group(1) @binding(0) var<storage, read> goal: array<f32>;
@group(1) @binding(1) var<storage, read_write> residual: array<f32>;
// Tile after tile: how many Gaussians reach into it, and which.
@group(1) @binding(2) var<storage, read_write> bins: array<u32>;

struct Gaussian {
    position: vec2<f32>,
    // Unit vector of the first axis.
    axis: vec2<f32>,
    inverse_scale: vec2<f32>,
    // Half the sides of a box around it.
    extent: vec2<f32>,
}

fn gaussian(i: u32) -> Gaussian {
    let axis = vec2<f32>(cos(shape[3u * i + 2u]), sin(shape[3u * i + 2u]));
    let scale = exp(vec2<f32>(shape[3u * i], shape[3u * i + 1u]));
    let extent = REACH * sqrt(axis * axis * scale.x * scale.x + axis.yx * axis.yx * scale.y * scale.y);
    return Gaussian(position[i], axis, 1.0 / scale, extent);
}

fn colour_of(i: u32) -> vec3<f32> {
    return vec3<f32>(colour[3u * i], colour[3u * i + 1u], colour[3u * i + 2u]);
}

// Where a pixel's centre lies in the Gaussian's own axes, in standard deviations.
fn within(g: Gaussian, pixel: vec2<f32>) -> vec2<f32> {
    let d = pixel + 0.5 - g.position;
    return vec2<f32>(dot(g.axis, d), g.axis.x * d.y - g.axis.y * d.x) * g.inverse_scale;
}

@compute @workgroup_size(64)
fn bin(@builtin(global_invocation_id) id: vec3<u32>) {
    let across = WIDTH / TILE;
    if id.x >= across * (HEIGHT / TILE) {
        return;
    }
    let corner = vec2<f32>(vec2<u32>(id.x % across, id.x / across) * TILE);
    let start = id.x * (COUNT + 1u);
    var found = 0u;
    for (var i = 0u; i < COUNT; i += 1u) {
        let g = gaussian(i);
        if all(g.position + g.extent >= corner) && all(g.position - g.extent <= corner + f32(TILE)) {
            found += 1u;
            bins[start + found] = i;
        }
    }
    bins[start] = found;
}

@compute @workgroup_size(TILE, TILE)
fn render(@builtin(global_invocation_id) id: vec3<u32>, @builtin(workgroup_id) tile: vec3<u32>) {
    let start = (tile.y * (WIDTH / TILE) + tile.x) * (COUNT + 1u);
    var sum = vec3<f32>(0.0);
    for (var k = 1u; k <= bins[start]; k += 1u) {
        let i = bins[start + k];
        let q = within(gaussian(i), vec2<f32>(id.xy));
        sum += exp(-0.5 * dot(q, q)) * colour_of(i);
    }
    let at = 3u * (id.y * WIDTH + id.x);
    for (var k = 0u; k < 3u; k += 1u) {
        residual[at + k] = sum[k] - goal[at + k];
    }
}

@group(2) @binding(0) var<storage, read_write> position_gradient: array<vec2<f32>>;
@group(2) @binding(1) var<storage, read_write> shape_gradient: array<f32>;
@group(2) @binding(2) var<storage, read_write> colour_gradient: array<f32>;

// The loss by position, shape and colour, summed up over the pixels. wgpu zeroes workgroup memory.
var<workgroup> moved: array<vec2<f32>, 64>;
var<workgroup> bent: array<vec3<f32>, 64>;
var<workgroup> tinted: array<vec3<f32>, 64>;

// One workgroup a Gaussian, over the pixels of its box. The loss is the mean of squared residuals.
@compute @workgroup_size(64)
fn backward(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = group.x;
    let g = gaussian(i);
    let size = vec2<f32>(f32(WIDTH), f32(HEIGHT));
    let low = vec2<u32>(clamp(floor(g.position - g.extent), vec2<f32>(0.0), size));
    let high = vec2<u32>(clamp(ceil(g.position + g.extent), vec2<f32>(0.0), size));
    let sides = max(high, low) - low;
    let c = colour_of(i);
    let scale = 1.0 / g.inverse_scale;
    let turn = scale.x * g.inverse_scale.y - scale.y * g.inverse_scale.x;
    for (var k = lane; k < sides.x * sides.y; k += 64u) {
        let pixel = low + vec2<u32>(k % sides.x, k / sides.x);
        let at = 3u * (pixel.y * WIDTH + pixel.x);
        let r = vec3<f32>(residual[at], residual[at + 1u], residual[at + 2u]);
        let q = within(g, vec2<f32>(pixel));
        let value = exp(-0.5 * dot(q, q));
        // The loss by the Gaussian's exponent, and from there by what the exponent depends on.
        let w = dot(r, c) * value;
        let pull = q * g.inverse_scale;
        moved[lane] += w * (g.axis * pull.x + vec2<f32>(-g.axis.y, g.axis.x) * pull.y);
        bent[lane] += w * vec3<f32>(q * q, q.x * q.y * turn);
        tinted[lane] += value * r;
    }
    for (var half = 32u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if lane < half {
            moved[lane] += moved[lane + half];
            bent[lane] += bent[lane + half];
            tinted[lane] += tinted[lane + half];
        }
    }
    if lane == 0u {
        let mean = 2.0 / (3.0 * size.x * size.y);
        position_gradient[i] = mean * moved[0];
        for (var k = 0u; k < 3u; k += 1u) {
            shape_gradient[3u * i + k] = mean * bent[0][k];
            colour_gradient[3u * i + k] = mean * tinted[0][k];
        }
    }
}

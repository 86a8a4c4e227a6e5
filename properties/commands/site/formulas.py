"""Formulas for the pages of laws, in LaTeX: what each method computes, and what some laws say of it.

They are written by hand beside the words, and stand for no others: the words of a law's docstring are what it says.
"""

from __future__ import annotations

METHODS = {
    "project": r"H = \Pi(Z), \quad Z \in \mathbb{R}^{n \times n}",
    "mappings": (
        r"\hat x = \frac{x}{\operatorname{rms}(x)}, \quad (\ell^{\mathrm{pre}}, \ell^{\mathrm{post}}, Z) = \alpha \odot"
        r" (\hat x \varphi) + b, \quad h^{\mathrm{pre}} = g(\ell^{\mathrm{pre}}), \quad h^{\mathrm{post}} = s\, g("
        r"\ell^{\mathrm{post}}), \quad H = \Pi(Z)"
    ),
    "pre": r"u = \sum_{i=1}^{n} h^{\mathrm{pre}}_i \, x_i",
    "post": r"x'_i = \sum_{j=1}^{n} A_{ij} \, x_j + h^{\mathrm{post}}_i \, y, \qquad A = H \text{ or } H^{\mathsf T}",
    "block": r"x' = A x + (h^{\mathrm{post}})^{\mathsf T} F\bigl(h^{\mathrm{pre}} x\bigr)",
    "layers": (
        r"x^{(l+1)} = A^{(l)} x^{(l)} + (h^{\mathrm{post},(l)})^{\mathsf T} F_l\bigl(h^{\mathrm{pre},(l)}"
        r" x^{(l)}\bigr)"
    ),
    "expand": r"x^{(0)} = \operatorname{expand}(h) \in \mathbb{R}^{n \times C}, \qquad h \in \mathbb{R}^{C}",
    "collapse": r"h' = \operatorname{collapse}\bigl(x^{(L)}\bigr) \in \mathbb{R}^{C}",
    "stack": r"h' = \operatorname{collapse}\bigl(B_L \circ \dots \circ B_1 (\operatorname{expand}(h))\bigr)",
}
"""What a method computes. Z: the logits; x: n streams of C channels; F: the branch; s: the scale of the write gates."""

LAWS = {
    "manifold.entries-between-zero-and-one": r"0 \le H_{ij} \le 1",
    "manifold.last-axis-sums": r"\sum_{k \in \text{line}} H_k = \frac{s}{s + \varepsilon}",
    "manifold.half-step-convergence": r"\Bigl| \sum_{k \in \text{line}} H_k - 1 \Bigr| \le e^{\lambda^{2t-1} R} - 1",
    "manifold.odds-ratios": (
        r"\log \frac{M_{ij} \, M_{kl}}{M_{il} \, M_{kj}} = \log \frac{M^{(0)}_{ij} \,"
        r" M^{(0)}_{kl}}{M^{(0)}_{il} \, M^{(0)}_{kj}}"
    ),
    "manifold.exact-shift-invariance": (
        r"\Pi(Z + \mathbf{1} a^{\mathsf T}) = \Pi(Z) \text{ (columns first)}, \qquad"
        r" \Pi(Z + a \mathbf{1}^{\mathsf T}) = \Pi(Z) \text{ (rows first)}"
    ),
    "manifold.permutation-equivariance": r"\Pi(P Z Q) = P \, \Pi(Z) \, Q, \qquad P, Q \text{ permutations}",
    "manifold.doubly-stochastic-fixed-point": (
        r"\Pi(\tau \log D) = D, \qquad D \mathbf{1} = \mathbf{1}, \; D^{\mathsf T} \mathbf{1} ="
        r" \mathbf{1}"
    ),
    "manifold.iterations-compose": r"\Pi_s\bigl(\tau \log \Pi_t(Z)\bigr) = \Pi_{s+t}(Z)",
    "manifold.constant-logits-mix-uniformly": (
        r"\Pi(c \, \mathbf{1} \mathbf{1}^{\mathsf T}) = \tfrac{1}{n} \mathbf{1} \mathbf{1}^{\mathsf T}"
    ),
    "manifold.triangular-closed-form": (
        r"e^{Z} = \begin{pmatrix} 1 & 1 \\ 0 & 1 \end{pmatrix} \;\Rightarrow\; \text{sums } \frac{2t}{2t+1},"
        r" \; \frac{2t+2}{2t+1}"
    ),
    "manifold.no-entry-is-negative": r"H_{ij} \ge 0",
    "manifold.claimed-sums-are-one": (
        r"H \mathbf{1} = \mathbf{1} \text{ or } H^{\mathsf T} \mathbf{1} = \mathbf{1}, \text{ or"
        r" both}"
    ),
    "manifold.orthogonal-matrices-preserve-norms": r"H H^{\mathsf T} = I",
    "manifold.matrices-do-not-expand": r"\lVert H \rVert_2 \le 1",
    "manifold.streams-have-no-names": r"\Pi(P Z P^{\mathsf T}) = P \, \Pi(Z) \, P^{\mathsf T}",
    "mixing.post-is-the-sum-of-its-parts": (
        r"\operatorname{post}(x, y) = \sum_{j} \operatorname{post}(e_j x_j, 0) + \operatorname{post}(0, y)"
    ),
    "mixing.exact-side-is-conserved": (
        r"A \mathbf{1} = \mathbf{1} \quad \text{or} \quad \mathbf{1}^{\mathsf T} A = \mathbf{1}^{\mathsf"
        r" T}"
    ),
    "mixing.mixing-does-not-expand": r"\lVert A \rVert_\infty \le 1 \quad \text{or} \quad \lVert A \rVert_1 \le 1",
    "mixing.spectral-norm-within-its-certificate": r"\lVert H \rVert_2 \le \sqrt{1 + e}",
    "mixing.composites-do-not-expand": r"\lVert A_L \cdots A_1 \rVert_2 \le 1",
    "coefficients.gates-stay-in-their-range": (
        r"\varepsilon_{\mathrm{pre}} \le h^{\mathrm{pre}} \le 1 + \varepsilon_{\mathrm{pre}}, \qquad"
        r" \varepsilon_{\mathrm{post}} \le h^{\mathrm{post}} \le s + \varepsilon_{\mathrm{post}}"
    ),
    "coefficients.coefficients-do-not-see-the-scale": r"h(c \, x) = h(x), \qquad c > 0",
    "coefficients.closed-gates-leave-the-bias": r"\alpha = 0 \;\Rightarrow\; \ell = b",
    "coefficients.norm-weight-is-absorbed-by-phi": (
        r"(\hat x \odot w) \varphi = \hat x \, \bigl(\operatorname{diag}(w)"
        r" \varphi\bigr)"
    ),
    "coefficients.gate-and-projection-multiply": (
        r"(2 \alpha) (\hat x \varphi) = \alpha \bigl(\hat x \, (2"
        r" \varphi)\bigr)"
    ),
    "block.silent-branch-leaves-the-mixing": r"F = 0 \;\Rightarrow\; x' = A x",
    "block.branch-enters-through-h-post-alone": (
        r"x'(2 y) - x'(y) = (h^{\mathrm{post}})^{\mathsf T} y = x'(y) - x'(0)"
    ),
    "block.one-stream-is-a-gated-residual": (
        r"n = 1 \;\Rightarrow\; x' = a x + h^{\mathrm{post}} F(h^{\mathrm{pre}} x), \quad a ="
        r" 1"
    ),
    "depth.bounded-branches-grow-at-most-linearly": (
        r"|F_l| \le B_l \;\Rightarrow\; \max |x^{(L)}| \le \max |x^{(0)}| + s \sum_{l} B_l"
    ),
    "gradient.exact-shifts-have-no-gradient": r"\sum_{k \in \text{line}} \bar Z_k = 0",
    "gradient.pullback-is-linear": r"J^{\mathsf T}(2 v - w) = 2 J^{\mathsf T} v - J^{\mathsf T} w",
    "gradient.pullback-is-homogeneous": r"J^{\mathsf T}(4 v) = 4 J^{\mathsf T} v",
    "gradient.residual-path-pulls-back-by-the-transpose": (
        r"F = 0, \; A \text{ constant} \;\Rightarrow\; \bar x = A^{\mathsf T} \bar x'"
    ),
    "gradient.expand-sums-its-cotangents": r"\bar h = \sum_{i} b_i \, \bar x_i",
}
"""What a law says, by its id. A bar is a cotangent, J the derivative, tau the temperature, t the iterations."""

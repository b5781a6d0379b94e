"""JPEG-l_inf (Kang et al., arXiv:1908.08016): every coefficient of the image's JPEG code changes a little."""

from robustctl.perturbations.jpeg import Jpeg


class JpegLinf(Jpeg):
    """Parameters: the change of each coefficient in its step of quantisation (quality 50), at most the budget."""

    unit = "steps of quantisation"
    highest = 16.0
    usual = "0.125"
    usual_digits = "0.5"
    source = "Kang et al., arXiv:1908.08016; budget of RAMP (B.3; E-AT has 0.25)"


KIND = JpegLinf()

"""The references that the methods text can cite."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Reference:
    """One entry of the reference list; ``doi`` without a prefix."""

    text: str
    doi: str = ""


REFERENCES = {
    "friston1994": Reference(
        "Friston KJ, Worsley KJ, Frackowiak RSJ, Mazziotta JC, Evans AC. Assessing the significance of focal "
        "activations using their spatial extent. Hum Brain Mapp 1994;1:210–220.",
        "10.1002/hbm.460010306",
    ),
    "worsley1996": Reference(
        "Worsley KJ, Marrett S, Neelin P, Vandal AC, Friston KJ, Evans AC. A unified statistical approach for "
        "determining significant signals in images of cerebral activation. Hum Brain Mapp 1996;4:58–73.",
        "10.1002/(SICI)1097-0193(1996)4:1<58::AID-HBM4>3.0.CO;2-O",
    ),
    "kiebel1999": Reference(
        "Kiebel SJ, Poline JB, Friston KJ, Holmes AP, Worsley KJ. Robust smoothness estimation in statistical "
        "parametric maps using standardized residuals from the general linear model. NeuroImage 1999;10:756–766.",
        "10.1006/nimg.1999.0508",
    ),
    "friston2002": Reference(
        "Friston KJ, Glaser DE, Henson RNA, Kiebel S, Phillips C, Ashburner J. Classical and Bayesian inference in "
        "neuroimaging: applications. NeuroImage 2002;16:484–512.",
        "10.1006/nimg.2002.1091",
    ),
    "hayasaka2004": Reference(
        "Hayasaka S, Phan KL, Liberzon I, Worsley KJ, Nichols TE. Nonstationary cluster-size inference with random "
        "field and permutation methods. NeuroImage 2004;22:676–687.",
        "10.1016/j.neuroimage.2004.01.041",
    ),
    "chumbley2009": Reference(
        "Chumbley JR, Friston KJ. False discovery rate revisited: FDR and topological inference using Gaussian random "
        "fields. NeuroImage 2009;44:62–70.",
        "10.1016/j.neuroimage.2008.05.021",
    ),
    "eklund2016": Reference(
        "Eklund A, Nichols TE, Knutsson H. Cluster failure: why fMRI inferences for spatial extent have inflated "
        "false-positive rates. Proc Natl Acad Sci USA 2016;113:7900–7905.",
        "10.1073/pnas.1602413113",
    ),
    "holm1979": Reference(
        "Holm S. A simple sequentially rejective multiple test procedure. Scand J Stat 1979;6:65–70. "
        "https://www.jstor.org/stable/4615733"
    ),
    "freedman1983": Reference(
        "Freedman D, Lane D. A nonstochastic interpretation of reported significance levels. J Bus Econ Stat "
        "1983;1:292–298.",
        "10.1080/07350015.1983.10509354",
    ),
    "winkler2014": Reference(
        "Winkler AM, Ridgway GR, Webster MA, Smith SM, Nichols TE. Permutation inference for the general linear "
        "model. NeuroImage 2014;92:381–397.",
        "10.1016/j.neuroimage.2014.01.060",
    ),
    "kriegeskorte2009": Reference(
        "Kriegeskorte N, Simmons WK, Bellgowan PSF, Baker CI. Circular analysis in systems neuroscience: the dangers "
        "of double dipping. Nat Neurosci 2009;12:535–540.",
        "10.1038/nn.2303",
    ),
    "esterman2010": Reference(
        "Esterman M, Tamber-Rosenau BJ, Chiu YC, Yantis S. Avoiding non-independence in fMRI data analysis: leave one "
        "subject out. NeuroImage 2010;50:572–576.",
        "10.1016/j.neuroimage.2009.10.092",
    ),
    "armitage1969": Reference(
        "Armitage P, McPherson CK, Rowe BC. Repeated significance tests on accumulating data. J R Stat Soc A "
        "1969;132:235–244.",
        "10.2307/2343787",
    ),
    "wilcoxon1945": Reference(
        "Wilcoxon F. Individual comparisons by ranking methods. Biometrics Bull 1945;1:80–83.", "10.2307/3001968"
    ),
    "abraham2014": Reference(
        "Abraham A, Pedregosa F, Eickenberg M, et al. Machine learning for neuroimaging with scikit-learn. Front "
        "Neuroinform 2014;8:14.",
        "10.3389/fninf.2014.00014",
    ),
    "harris2020": Reference(
        "Harris CR, Millman KJ, van der Walt SJ, et al. Array programming with NumPy. Nature 2020;585:357–362.",
        "10.1038/s41586-020-2649-2",
    ),
    "virtanen2020": Reference(
        "Virtanen P, Gommers R, Oliphant TE, et al. SciPy 1.0: fundamental algorithms for scientific computing in "
        "Python. Nat Methods 2020;17:261–272.",
        "10.1038/s41592-019-0686-2",
    ),
    "weiskopf2014": Reference(
        "Weiskopf N, Callaghan MF, Josephs O, Lutti A, Mohammadi S. Estimating the apparent transverse relaxation time "
        "(R2*) from images with different contrasts (ESTATICS) reduces motion artifacts. Front Neurosci 2014;8:278.",
        "10.3389/fnins.2014.00278",
    ),
    "helms2008": Reference(
        "Helms G, Dathe H, Kallenberg K, Dechent P. High-resolution maps of magnetization transfer with inherent "
        "correction for RF inhomogeneity and T1 relaxation obtained from 3D FLASH MRI. Magn Reson Med "
        "2008;60:1396–1407.",
        "10.1002/mrm.21732",
    ),
    "veraart2016": Reference(
        "Veraart J, Novikov DS, Christiaens D, Ades-Aron B, Sijbers J, Fieremans E. Denoising of diffusion MRI using "
        "random matrix theory. NeuroImage 2016;142:394–406.",
        "10.1016/j.neuroimage.2016.08.016",
    ),
    "kellner2016": Reference(
        "Kellner E, Dhital B, Kiselev VG, Reisert M. Gibbs-ringing artifact removal based on local subvoxel-shifts. "
        "Magn Reson Med 2016;76:1574–1581.",
        "10.1002/mrm.26054",
    ),
    "andersson2016": Reference(
        "Andersson JLR, Sotiropoulos SN. An integrated approach to correction for off-resonance effects and subject "
        "movement in diffusion MR imaging. NeuroImage 2016;125:1063–1078.",
        "10.1016/j.neuroimage.2015.10.019",
    ),
    "veraart2013": Reference(
        "Veraart J, Sijbers J, Sunaert S, Leemans A, Jeurissen B. Weighted linear least squares estimation of "
        "diffusion MRI parameters: strengths, limitations, and pitfalls. NeuroImage 2013;81:335–346.",
        "10.1016/j.neuroimage.2013.05.028",
    ),
    "reuter2012": Reference(
        "Reuter M, Schmansky NJ, Rosas HD, Fischl B. Within-subject template estimation for unbiased longitudinal "
        "image analysis. NeuroImage 2012;61:1402–1418.",
        "10.1016/j.neuroimage.2012.02.084",
    ),
    "ashburner2005": Reference(
        "Ashburner J, Friston KJ. Unified segmentation. NeuroImage 2005;26:839–851.",
        "10.1016/j.neuroimage.2005.02.018",
    ),
    "yushkevich2016": Reference(
        "Yushkevich PA, Pluta J, Wang H, Wisse LEM, Das S, Wolk D. Fast automatic segmentation of hippocampal "
        "subfields and medial temporal lobe subregions in 3 Tesla and 7 Tesla T2-weighted MRI. Alzheimers Dement "
        "2016;12:P126–P127. https://github.com/pyushkevich/greedy",
    ),
    "avants2011": Reference(
        "Avants BB, Tustison NJ, Song G, Cook PA, Klein A, Gee JC. A reproducible evaluation of ANTs similarity metric "
        "performance in brain image registration. NeuroImage 2011;54:2033–2044.",
        "10.1016/j.neuroimage.2010.09.025",
    ),
    "draganski2011": Reference(
        "Draganski B, Ashburner J, Hutton C, et al. Regional specificity of MRI contrast parameter changes in normal "
        "ageing revealed by voxel-based quantification (VBQ). NeuroImage 2011;55:1423–1434.",
        "10.1016/j.neuroimage.2011.01.052",
    ),
    "good2001": Reference(
        "Good CD, Johnsrude IS, Ashburner J, Henson RNA, Friston KJ, Frackowiak RSJ. A voxel-based morphometric study "
        "of ageing in 465 normal adult human brains. NeuroImage 2001;14:21–36.",
        "10.1006/nimg.2001.0786",
    ),
}

"""Camera tracking on dense flow: DROID-SLAM as modified by MegaSaM.

Teed & Deng, "DROID-SLAM: Deep Visual SLAM for Monocular, Stereo, and RGB-D Cameras", NeurIPS 2021;
Li et al., "MegaSaM: Accurate, Fast, and Robust Structure and Motion from Casual Dynamic Videos", CVPR 2025.
"""

from setuptools import find_packages, setup

setup(
    name="verl_ext",
    version="0.1.0",
    packages=find_packages(include=["verl_ext", "verl_ext.*"]),
    package_data={"verl_ext.trainer": ["config/*.yaml"]},
    python_requires=">=3.10,<3.13",
    install_requires=["verl==0.9.1"],
    entry_points={"verl.plugins": ["verl_ext = verl_ext.plugin"]},
)

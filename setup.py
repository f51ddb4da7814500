"Package definition; every value comes from settings.ini."

from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
config = ConfigParser(delimiters=['='], interpolation=None)
config.read(here / 'settings.ini', encoding='utf-8')
cfg = config['DEFAULT']


def words(key):
    "The words of a setting."
    return cfg.get(key, '').split()


readme = here / 'README.md'

setup(
    name=cfg['lib_name'],
    version=cfg['version'],
    description=cfg['description'],
    long_description=readme.read_text(encoding='utf-8') if readme.exists() else '',
    long_description_content_type='text/markdown',
    author=cfg['author'],
    author_email=cfg['author_email'],
    url=cfg['git_url'],
    project_urls={
        'Documentation': cfg['doc_host'] + cfg['doc_baseurl'],
        'Changes': cfg['git_url'] + '/blob/main/CHANGELOG.md',
    },
    license='Apache-2.0',
    keywords=words('keywords'),
    classifiers=[
        'Development Status :: 3 - Alpha',
        'Intended Audience :: Science/Research',
        'Topic :: Scientific/Engineering :: Medical Science Apps.',
        'Programming Language :: Python :: 3.10',
        'Programming Language :: Python :: 3.11',
        'Programming Language :: Python :: 3.12',
    ],
    packages=find_packages(include=['medgen', 'medgen.*']),
    package_data={'medgen': ['configs/*.yaml', 'configs/*/*.yaml', 'starters/*/*']},
    python_requires='>=' + cfg['min_python'],
    install_requires=words('requirements'),
    extras_require={'dev': words('dev_requirements'), 'lab': words('lab_requirements')},
    entry_points={'console_scripts': words('console_scripts'), 'nbdev': ['medgen=medgen._modidx:d']},
    zip_safe=False,
    # A path entry, not an import hook: a folder named medgen in the working folder would come before the hook.
    options={'editable_wheel': {'mode': 'compat'}},
)

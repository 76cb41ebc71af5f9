"""What is ordered, measured and found, in the codes of LOINC, SNOMED CT, RadLex, DICOM and UCUM: the tables of the population."""

from __future__ import annotations

from itertools import accumulate

LOINC, SNOMED, RADLEX = "http://loinc.org", "http://snomed.info/sct", "http://radlex.org"
DCM, UCUM, TERMS = (
    "http://dicom.nema.org/resources/ontology/DCM",
    "http://unitsofmeasure.org",
    "http://terminology.hl7.org/CodeSystem",
)
ACCESSIONS, ORDERS, RECORDS = (f"https://hospital.example/{kind}" for kind in ("accession", "order", "mrn"))

# modality, LOINC, SNOMED CT procedure, SNOMED CT body site, series at least and at most, how often
PROCEDURES = (
    ("DX", ("24647-0", "XR Chest PA and Lateral upright"), ("399208008", "Plain X-ray of chest"), ("51185008", "Thorax"), 1, 2, 22),
    ("CT", ("24725-4", "CT Head"), ("303653007", "Computed tomography of head"), ("69536005", "Head"), 1, 4, 15),
    ("CT", ("24627-2", "CT Chest"), ("169069000", "Computed tomography of chest"), ("51185008", "Thorax"), 2, 5, 9),
    ("CT", ("36813-4", "CT Abdomen and Pelvis W contrast IV"), ("77477000", "Computed tomography"), ("818983003", "Abdomen"), 3, 6, 9),
    ("MR", ("24587-8", "MR Brain WO and W contrast IV"), ("816077007", "Magnetic resonance imaging of brain"), ("12738006", "Brain"), 4, 6, 7),
    ("MR", ("24968-0", "MR Lumbar spine"), ("113091000", "Magnetic resonance imaging"), ("122496007", "Lumbar spine"), 3, 6, 9),
    ("MR", ("24802-1", "MR Knee"), ("113091000", "Magnetic resonance imaging"), ("72696002", "Knee"), 3, 6, 6),
    ("US", ("24558-9", "US Abdomen"), ("45036003", "Ultrasonography of abdomen"), ("818983003", "Abdomen"), 1, 1, 9),
    ("US", ("24616-5", "US Carotid arteries"), ("16310003", "Ultrasonography"), ("69105007", "Carotid artery"), 1, 2, 3),
    ("MG", ("24606-6", "MG Breast Screening"), ("71651007", "Mammography"), ("76752008", "Breast"), 2, 4, 5),
    ("DX", ("24806-2", "XR Knee 2 Views"), ("363680008", "Radiographic imaging procedure"), ("72696002", "Knee"), 1, 2, 4),
    ("DX", ("24721-3", "XR Hand 2 Views"), ("363680008", "Radiographic imaging procedure"), ("85562004", "Hand"), 1, 2, 2),
)  # fmt: skip
PROCEDURE_WEIGHTS = list(accumulate(row[-1] for row in PROCEDURES))
MODALITY = {
    "CT": ("Computed Tomography", "RID10321", "computed tomography"),
    "MR": ("Magnetic Resonance", "RID10312", "magnetic resonance imaging"),
    "US": ("Ultrasound", "RID10326", "ultrasound"),
    "DX": ("Digital Radiography", "RID10345", "projection radiography"),
    "MG": ("Mammography", "RID10357", "mammography"),
}
SERIES = {
    "CT": ("Scout", "Axial 5.0", "Axial 1.0 soft", "Axial 1.0 sharp", "Coronal MPR", "Sagittal MPR"),
    "MR": ("Localizer", "T1 sag", "T2 ax", "FLAIR ax", "DWI ax", "T1 ax +C"),
    "US": ("B-mode", "Doppler"),
    "DX": ("PA", "Lateral"),
    "MG": ("R CC", "L CC", "R MLO", "L MLO"),
}
INSTANCES = {"CT": (2, 420), "MR": (3, 160), "US": (8, 60), "DX": (1, 2), "MG": (1, 1)}
SIDES = (("7771000", "Left"), ("24028007", "Right"))
QUESTIONS = (
    "Headache after a fall, on anticoagulants: bleeding?", "Cough and fever for a week: pneumonia?", "Follow-up of a known nodule.",
    "Acute abdominal pain: appendicitis, perforation?", "Low back pain with radiation to the left leg: disc herniation?",
    "Screening.", "Sudden weakness of the right arm: stroke?", "Weight loss, night sweats: staging.", "Trauma: fracture?",
    "Dyspnoea, raised D-dimer: pulmonary embolism?", "Swollen knee after a twist: meniscus, ligaments?",
)  # fmt: skip
REASONS = (
    ("25064002", "Headache"), ("49727002", "Cough"), ("21522001", "Abdominal pain"), ("279039007", "Low back pain"),
    ("267036007", "Dyspnea"), ("29857009", "Chest pain"), ("230690007", "Cerebrovascular accident"), ("30989003", "Knee pain"),
)  # fmt: skip
CONCLUSIONS = (
    ("No acute pathology.", None), ("Normal findings for the age.", None),
    ("Consolidation in the right lower lobe, consistent with pneumonia.", ("233604007", "Pneumonia")),
    ("Small intracranial haemorrhage; neurosurgical consultation advised.", ("1386000", "Intracranial hemorrhage")),
    ("Undisplaced fracture.", ("125605004", "Fracture of bone")), ("Solitary pulmonary nodule, follow-up in 3 months.", ("427359005", "Solitary nodule of lung")),
    ("Gallstones without signs of inflammation.", ("235919008", "Gallbladder calculus")), ("Disc herniation L4/L5.", ("76107001", "Prolapsed intervertebral disc")),
)  # fmt: skip
# LOINC, what it is, UCUM, mean, deviation, digits, lowest
VITALS = (
    ("8867-4", "Heart rate", "/min", 76, 14, 0, 38), ("8310-5", "Body temperature", "Cel", 36.8, 0.6, 1, 34.5),
    ("9279-1", "Respiratory rate", "/min", 16, 4, 0, 8), ("2708-6", "Oxygen saturation in Arterial blood", "%", 96, 2, 0, 70),
    ("29463-7", "Body weight", "kg", 76, 16, 1, 30), ("8302-2", "Body height", "cm", 170, 10, 0, 120),
)  # fmt: skip
LABS = (
    ("2160-0", "Creatinine [Mass/volume] in Serum or Plasma", "mg/dL", 0.95, 0.3, 2, 0.3),
    ("62238-1", "Glomerular filtration rate/1.73 sq M.predicted", "mL/min/{1.73_m2}", 82, 22, 0, 5),
    ("718-7", "Hemoglobin [Mass/volume] in Blood", "g/dL", 13.6, 1.8, 1, 5),
    ("6690-2", "Leukocytes [#/volume] in Blood by Automated count", "10*3/uL", 7.4, 2.6, 1, 0.5),
    ("777-3", "Platelets [#/volume] in Blood by Automated count", "10*3/uL", 245, 70, 0, 10),
    ("1988-5", "C reactive protein [Mass/volume] in Serum or Plasma", "mg/L", 12, 20, 1, 0.3),
    ("3016-3", "Thyrotropin [Units/volume] in Serum or Plasma", "m[IU]/L", 2.1, 1.2, 2, 0.01),
    ("6301-6", "INR in Platelet poor plasma by Coagulation assay", "{INR}", 1.2, 0.4, 2, 0.8),
    ("2823-3", "Potassium [Moles/volume] in Serum or Plasma", "mmol/L", 4.3, 0.5, 1, 2),
    ("2345-7", "Glucose [Mass/volume] in Serum or Plasma", "mg/dL", 104, 28, 0, 40),
)  # fmt: skip
SPECIALTIES = (
    ("394914008", "Radiology"),
    ("394802001", "General medicine"),
    ("773568002", "Emergency medicine"),
    ("394609007", "General surgery"),
)
PRIORITIES = (("routine", "urgent", "asap", "stat"), (80, 92, 97, 100))
HOURS = {"stat": 1, "asap": 4, "urgent": 24, "routine": 240}  # until the images, and from them to the report
